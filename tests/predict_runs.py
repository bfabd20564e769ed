"""What tests of predict.py's command line share: a run of it, and the frames of a video that it wrote."""
import av

import predict


def run(*flags):
    return predict.main(predict.arguments().parse_args([str(flag) for flag in flags]))


def decoded(path, kind="video"):
    with av.open(str(path)) as container:
        return list(container.decode(getattr(container.streams, kind)[0]))
