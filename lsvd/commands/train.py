"""Train the shipped models; the training has options of its own."""


def main(arguments: list[str]) -> int:
    """Hand the arguments to lsvd.testbed.training.train, which parses them."""
    from lsvd.testbed.training import train

    return train.main(arguments)
