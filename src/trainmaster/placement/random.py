"""random: by chance among the nodes that hold the (rest of the) gang; if none does, among those with a free GPU."""

from trainmaster.placement.base import Placement
from trainmaster.placement.first_fit import pick

PLACEMENT = Placement("random", "a node by chance", pick, random=True)
