"""What people were asked to prefer, learnt by networks: ports of their published scorers.

All judge a picture, most of them beside its prompt; none sees the style. They were trained on what
people like of text-to-image models, so they reward polish, and may punish what is flat or rough on
purpose.
"""
