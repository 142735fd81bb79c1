from stylecli.tensors.grounds import *  # noqa: F403
