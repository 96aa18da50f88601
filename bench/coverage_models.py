"""The networks of coverage.py and what each has to reach."""

# Million parameters that may remain, exact removals only, 1 % of slack; measured for the best of the other tools or
# counted from the architecture.
ANCHORS = {
    "resnet18": 3.06,
    "resnet50": 6.92,
    "resnext50_32x4d": 6.79,
    "mobilenet_v2": 1.21,
    "mobilenet_v3_small": 0.91,
    "efficientnet_b0": 1.70,
    "densenet121": 2.28,
    "regnet_y_400mf": 1.21,
    "googlenet": 1.92,
    "inception_v3": 6.48,
    "vgg16_bn": 35.6,
    "squeezenet1_1": 0.44,
    "convnext_tiny": 15.63,
    "vit_b_16": 44.5,
    "swin_t": 15.5,
    "shufflenet_v2_x1_0": 1.2,
    "alexnet": 16.3,
}
SHIFTS = {"convnext_tiny --allow-shifts": 7.44}
SLACK = 1.01
# Marks that were counted as PyTorch counts parameters: without the running statistics of batch norms, which this page
# counts for every tool alike where the exporter leaves them in the file.
WITHOUT_STATISTICS = {"densenet121"}

# The smallest and the largest that fits into one file (2 GiB) of each family of torchvision.
CLASSIFICATION = [
    "alexnet",
    "convnext_tiny",
    "convnext_large",
    "densenet121",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b7",
    "efficientnet_v2_s",
    "efficientnet_v2_l",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "regnet_x_400mf",
    "regnet_x_32gf",
    "regnet_y_400mf",
    "regnet_y_32gf",
    "resnet18",
    "resnet50",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_64x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_t",
    "swin_b",
    "swin_v2_t",
    "swin_v2_b",
    "vgg11",
    "vgg19",
    "vgg11_bn",
    "vgg16_bn",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
SEGMENTATION = [
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
]
VIDEO = ["mc3_18", "mvit_v1_b", "mvit_v2_s", "r2plus1d_18", "r3d_18", "s3d", "swin3d_t", "swin3d_b"]
WIDE = CLASSIFICATION + SEGMENTATION + VIDEO
LEAST_REMOVED = 0.40

DETECTORS = [
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
]

# Feed-forward layers of each Hugging Face configuration of export_transformers.py; 2 where not listed. Attention blocks
# are counted in the graph.
LAYERS = {"clip": 4, "modernbert": 4, "swin": 4, "swinv2": 4, "minilm": 6}
FEED_FORWARD = (128, 256, 1536)

# Why less than 40 % goes. Shown beside the groups that the report names.
EXCEPTIONS: dict[str, str] = {}
