"""What the released DiffusionNFT training code does, in closed form where that exists.

`mapping`: the tilt that its reward mapping leaves; `penalty`: its KL term in velocity space;
`schedule`: how the old copy follows; `forecast`: all of them over the epochs of a run;
`exact`: the same epochs with laws carried on a grid, d <= 2.
"""
