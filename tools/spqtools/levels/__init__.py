"""Few levels for many weights: where they lie, and which weight takes which.

`alternatives`  kinds of levels: entropy-constrained, uniform, k-means, powers of two, ternary
`partition`     exact k-means on a line
`quantise`      a layer's weights on levels, each in the light of the others
`descent`       the kernel of that
`level_image`   another: the places of a level times the Hessian
`placing`       a whole student on levels, layer after layer
"""
