"""What comes in: networks, calibration inputs, images, and code that the caller names.

`ingest`       the model file, whatever its kind
`pt2`          a .pt2 of torch.export, without running what it contains
`tracing`      networks as graphs in which no operation changes its inputs
`teacher`      the network that the search watches
`programs`     the programs that the packed file gets
`calibration`  inputs that the search looks at
`unlabelled`   inputs that a student is trained on
`images`       folders of images
`preprocess`   what is done to images
`callables`    code that the caller names
"""
