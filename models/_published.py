"""Published weights on the Hugging Face hub."""


def published_file(repository: str, file: str) -> str:
    """Path of a file of weights, from the hub's cache or its download.

    Raises:
        FileNotFoundError: it is not here and cannot be fetched.
    """
    from huggingface_hub import hf_hub_download  # asked only for weights that are not given as a file

    try:
        return hf_hub_download(repository, file)
    except Exception as error:  # which one depends on why: offline, no such host, a broken cache
        raise FileNotFoundError(
            f"the weights {repository} are not in the Hugging Face cache and could not be downloaded; "
            "set pretrained: false, or give a local file as backbone_weights"
        ) from error
