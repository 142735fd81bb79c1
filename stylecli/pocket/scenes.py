from stylecli.tensors.scenes import *  # noqa: F403
