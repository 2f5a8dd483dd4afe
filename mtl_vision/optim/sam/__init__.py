"""Sharpness-aware minimization: gradients from where the loss is worst nearby.

The transforms stand around another one, usually `aggregate`, and ask for gradients at other
parameters through an extra argument of `update`. All perturbed passes should use the randomness
and the batch of the first one, or the differences are noise; and parameters should be float32: a
radius of 0.05 over 1e7 of them moves each by 1.6e-5, which bfloat16 does not resolve.
"""

from mtl_vision.optim.sam.joint import SamoState, sam, samo
from mtl_vision.optim.sam.task_wise import TaskSamState, task_sam

__all__ = ["SamoState", "TaskSamState", "sam", "samo", "task_sam"]
