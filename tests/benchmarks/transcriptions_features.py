"""The formulas of losses between features written down literally: slow, and not in use.

A function has the name of its loss' file and takes (loss, student, teacher, target): the built loss, for its adapters
and arguments, and what its forward takes.
"""


def pair_of(loss, student, teacher):
    return student.features[loss.pair.student], teacher.features[loss.pair.teacher]


def nfd(loss, student, teacher, target):
    dims = {"batch_space": (0, 2, 3), "space": (2, 3), "channel": 1}[loss.over]

    def standardised(x):
        return (x - x.mean(dims, keepdim=True)) / (x.std(dims, keepdim=True) + loss.eps)

    found, goal = pair_of(loss, student, teacher)
    if loss.projection is not None:
        found = loss.projection(found)
    error = standardised(found) - standardised(goal)
    if loss.distance == "mse":
        return error.square().mean()
    return error.square().sum().sqrt() / (goal.shape[2] * goal.shape[3])
