"""An ONNX model as the search runs it: a graph of PyTorch calls, up to its raw heads.

`teacher`     the graph, its inputs and heads, and the way back to the names of the model
`check`       compares the graph with what ONNX Runtime answers
`importer`    goes through the operators that lead to the heads and emits the calls
`heads`       finds what the last layers say
`wiring`      who makes a value, who uses it, what is constant
`tensors`     which tensors may change, under which names
`ops`         the operators and since which version they are what they are
`arithmetic`  numbers on numbers
`shapes`      sizes, slices and permutations
`layers`      convolutions, pools, norms and activations
`resize`      larger and smaller images
`values`      what passes between calls
"""
