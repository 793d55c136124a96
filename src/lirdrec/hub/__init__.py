"""Upload datasets and runs to a model hub and download them.

`push` and `pull` take folders; `push_to_hub` and `from_hub` also take objects in memory.
"""

from lirdrec.hub.client import HubError
from lirdrec.hub.pull import pull
from lirdrec.hub.push import push
from lirdrec.hub.push_and_load_objects import dataset_from_hub, from_hub, push_to_hub, recommender_from_hub

__all__ = ["HubError", "dataset_from_hub", "from_hub", "pull", "push", "push_to_hub", "recommender_from_hub"]
