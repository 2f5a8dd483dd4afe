r"""Everything at once on PASCAL-Context and NYUD-v2: the twin of `joint_swin_t_headline`.

  python scripts/prepare_data.py --dataset pascal_context --archive PASCAL_MT.tgz --data_dir data
  python scripts/prepare_data.py --dataset nyud_v2 --archive NYUDv2.tar.gz --data_dir data
  python scripts/train.py --config configs/joint_real_swin_t_headline.py --workdir runs/headline

MTLoRA, Polyhistor, task experts, CAGrad and task-wise SAM; recipe and data are those of
`joint_real_swin_t_hrnet`. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_real_swin_t_hrnet, joint_swin_t_headline


def get_config() -> mlc.ConfigDict:
    c = joint_real_swin_t_hrnet.get_config()
    c.backbone.taps = "stage"
    return joint_swin_t_headline.everything(c)
