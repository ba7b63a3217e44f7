"""The files of one (data set, network), as the options of tools/make_prototxt.py ask for them."""

from . import tables
from .datasets import built_dataset, restrict
from .files import file_texts
from .options import run_values


def texts(options):
    """{file name: text}. options: namespace of options.add_data_options, add_net_options and
    add_run_options, with net, out and one of dataset and data. Raises UserError."""
    net = tables.NETS[options.net]
    if options.crop:
        net = net.reading(options.crop)
    dataset = (
        built_dataset(options.data, net, options.test_split)
        if options.data
        else tables.DATASETS[options.dataset]
    )
    if options.levels is not None:
        dataset = restrict(dataset, options.levels)
    return file_texts(dataset, net, options.out.as_posix(), **run_values(options, dataset))
