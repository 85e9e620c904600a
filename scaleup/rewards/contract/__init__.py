"""What every reward keeps to; your own needs nothing else.

reward    Reward: pictures and prompts in, one float64 a picture out
checked   the same reward, whose every answer is checked
weighted  Weighted: a weighted sum of rewards
registry  rewards by name, from a file, with options, and sums of them
images    checks and conversions of pictures
"""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
    from scaleup.rewards.contract.checked import Checked
    from scaleup.rewards.contract.images import check_images, enlarge, to_uint8
    from scaleup.rewards.contract.registry import parse_reward, reward_sources, rewards
    from scaleup.rewards.contract.reward import Reward
    from scaleup.rewards.contract.weighted import Weighted
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
