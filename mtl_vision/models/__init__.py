"""Images to predictions: backbones, adapters, decoders."""
