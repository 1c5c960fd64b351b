"""The outer search: how sparse, and at which price of a bit, until the goal is hit.

`compress`      cycle after cycle, from a teacher to few levels and many zeros
`goal`          what is wanted, and which density to try next
`landing`       students on levels whose files hit the goal
`next_price`    which price of a bit to try next
`weights_only`  the same without inputs to run the network on
`fitness`       what students are judged by, under its name
`detector`      the divergence of detectors
`frontier`      every point that a search passes, and in `plot` a picture of them
`placings`      what is on levels already
`checkpoint`    where a search stands, on the disk, and in `thinning` its sparse weights
`deadline`      when it has to end
`allocator`     freed memory stays with the process
`outcome`       what leaves it
"""
