r"""Swin-T with HRNet heads, jointly on PASCAL-Context and NYUD-v2, protocol A at 448.

  python scripts/prepare_data.py --dataset pascal_context --archive PASCAL_MT.tgz --data_dir data
  python scripts/prepare_data.py --dataset nyud_v2 --archive NYUDv2.tar.gz --data_dir data
  python scripts/train.py --config configs/joint_real_swin_t_hrnet.py --workdir runs/joint_real

`joint_swin_t_hrnet` on the real datasets: MTLoRA's recipe (arXiv 2403.20320) of 300 epochs of
PASCAL-Context at batch 32, as many images of NYUD-v2 in every step. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_swin_t_hrnet

EPOCH = 4998 // 32


def get_config() -> mlc.ConfigDict:
    c = on_real_data(joint_swin_t_hrnet.get_config())
    c.schedule.warmup = 20 * EPOCH
    c.run.update(steps=300 * EPOCH, eval_every=5 * EPOCH, save_every=5 * EPOCH)
    return c


def on_real_data(c: mlc.ConfigDict) -> mlc.ConfigDict:
    """Puts the real datasets in the place of the synthetic ones."""
    for synthetic, real in (("synth_pascal", "pascal_context"), ("synth_nyud", "nyud_v2")):
        if synthetic in c.data:
            c.data[real] = c.data[synthetic]
            c.data[real].config = "full"
            del c.data[synthetic]
    c.eval.split, c.eval.monitor = "", "val"
    return c
