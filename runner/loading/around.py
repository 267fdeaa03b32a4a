"""What data sets around another one share."""

from torch.utils.data import Dataset


class Around(Dataset):
    """A data set around another, `dataset`: as many items, and all that it does not say itself."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str):
        if name == "dataset":  # while it is unpickled, there is none yet
            raise AttributeError(name)
        return getattr(self.dataset, name)
