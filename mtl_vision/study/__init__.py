"""Many runs of one question: which they are, running what is missing, what they found."""
