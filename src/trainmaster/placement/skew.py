"""skew: consolidate only the jobs whose model suffers when spread; the others take GPUs where they are.

Gu et al., "Tiresias", NSDI 2019, section 3.3: a model with a few very large tensors (high skew) sends unbalanced messages
and slows down when its gang spans nodes; Tiresias profiles the skew and consolidates those jobs only. Here a job is of
that kind if its model is one of the families with a dominant fully connected layer; a job without a model is not.
"""

from trainmaster.placement.base import Placement
from trainmaster.placement.first_fit import pick

# One fully connected layer holds most of the parameters: VGG (Simonyan and Zisserman 2015, table 2), AlexNet
# (Krizhevsky et al. 2012, section 3.5).
HIGH_SKEW_FAMILIES = ("vgg", "alexnet")


def is_skewed(model: str) -> bool:
    return model.lower().startswith(HIGH_SKEW_FAMILIES)


PLACEMENT = Placement("skew", "consolidate models with large tensors only", pick, consolidated=is_skewed)
