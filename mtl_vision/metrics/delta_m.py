"""Multi-task performance: the mean relative gain over single-task models."""

from collections.abc import Mapping
from statistics import fmean

# Single-task Swin-T on PASCAL-Context, protocol A: the baseline of the MTLoRA, TADFormer and DiTASK
# tables (scores: mIoU, mean angle, mIoU, mIoU); punpunzaz10/TADFormer ``configs/TADFormer``.
SWIN_T_PASCAL = {"semseg": 67.21, "normals": 17.97, "sal": 62.35, "human_parts": 61.93}


def delta_m(run: Mapping[str, float], base: Mapping[str, float], signs: Mapping[str, int]) -> float:
    """``100 / T * sum_t s_t (M_t - S_t) / S_t`` in percent (arXiv 1904.08918, equation 3).

    Args:
      run: score of the multi-task model by task; may hold more than `signs`.
      base: score of the single-task models, in the same units; likewise.
      signs: +1 where higher is better, -1 where lower is; its keys are the tasks compared.
    """
    return 100 * fmean(s * (run[name] - base[name]) / base[name] for name, s in signs.items())
