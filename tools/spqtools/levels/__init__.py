"""Few levels for many weights: where they lie, and which weight takes which.

`alternatives`  kinds of levels: entropy-constrained, uniform, k-means, powers of two, ternary
`partition`     exact k-means on a line
`quantise`      a layer's weights on levels, each in the light of the others
`windows`       the survivors that are chosen together, and the factors of their Hessians
`row_search`    the kernel that chooses them
`level_image`   another: the places of a level times the Hessian
`biases`        a layer's bias on steps
`placing`       a whole student on levels, layer after layer
"""
