"""`spq compare`: what a student answers beside what its teacher answers.

`request`            both networks, the data and the task; the table and the JSON
`network`            an ONNX graph, from an .onnx or out of an .spq, that runs
`detectors`          runs two detectors and counts what the student finds
`classifiers`        runs two classifiers and counts where they agree
`detections`         boxes out of the outputs of YOLO networks
`matching`           which objects of one network another one finds
`yolo_labels`        the objects that people have seen, and names of classes
`average_precision`  COCO's scores
`pictures`           what both find, drawn side by side
"""
