"""ResNet-50 as He et al. published it for Caffe: shapes and names, no weights."""

from tools.pycaffe import NetSpec, layers, params

HEADER = 'name: "ResNet-50"\ninput: "data"\ninput_dim: 1\ninput_dim: 3\n' + 2 * "input_dim: 224\n"


def resnet50():
    """Prototxt of a deploy file: no fillers, batch normalization by stored statistics."""
    n = NetSpec()
    n.data = layers.Input(shape=dict(dim=[1, 3, 224, 224]))

    def convolution(name, part, bottom, outputs, size, stride, relu=None, bias=False):
        n[name] = layers.Convolution(
            bottom,
            num_output=outputs,
            kernel_size=size,
            stride=stride,
            pad=size // 2,
            bias_term=bias,
        )
        n[f"bn{part}"] = layers.BatchNorm(n[name], in_place=True, use_global_stats=True)
        top = n[f"scale{part}"] = layers.Scale(n[name], in_place=True, bias_term=True)
        if relu:
            top = n[relu] = layers.ReLU(n[name], in_place=True)
        return top

    top = convolution("conv1", "_conv1", n.data, 64, 7, 2, "conv1_relu", bias=True)
    top = n.pool1 = layers.Pooling(top, pool=params.Pooling.MAX, kernel_size=3, stride=2)
    for number, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 2):
        for block in "abcdef"[:blocks]:
            name, stride = f"{number}{block}", 2 if block == "a" and number > 2 else 1
            short = (
                top
                if block != "a"
                else convolution(f"res{name}_branch1", f"{name}_branch1", top, 4 * width, 1, stride)
            )
            for part, outputs, size, step in (
                ("2a", width, 1, stride),
                ("2b", width, 3, 1),
                ("2c", 4 * width, 1, 1),
            ):
                branch = f"{name}_branch{part}"
                top = convolution(
                    f"res{branch}",
                    branch,
                    top,
                    outputs,
                    size,
                    step,
                    f"res{branch}_relu" if part != "2c" else None,
                )
            n[f"res{name}"] = layers.Eltwise(short, top)
            top = n[f"res{name}_relu"] = layers.ReLU(n[f"res{name}"], in_place=True)
    n.pool5 = layers.Pooling(top, pool=params.Pooling.AVE, kernel_size=7, stride=1)
    n.fc1000 = layers.InnerProduct(n.pool5, num_output=1000)
    n.prob = layers.Softmax(n.fc1000)
    proto = n.to_proto()
    del proto.layer[0]
    return HEADER + str(proto)
