"""What a stylisation costs here: ours beside the plain reference, in one run (`style bench`).

`scene` is what every side is given, `sides` what is measured, `cases` what is asked and in which
order; `counting`, `timing`, `memory` and `ceiling` are the instruments, `report` what they say.
"""
