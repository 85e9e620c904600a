"""The same losses on Stable Diffusion and its kin, with LoRA; rewards of pictures."""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
    from scaleup.adapter.model import ImageModel
    from scaleup.adapter.opening import open_model
    from scaleup.adapter.prompts import Prompts
    from scaleup.adapter.sampling import sample
    from scaleup.adapter.velocity import Guided
    from scaleup.builtin import builtin_folder
    from scaleup.rewards.contract.images import check_images, enlarge, to_uint8
    from scaleup.rewards.contract.registry import parse_reward
    from scaleup.rewards.contract.reward import Reward
    from scaleup.training.config import TrainConfig, load_config
    from scaleup.training.run import run
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
