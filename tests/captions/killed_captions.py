"""Caption a dataset by a server and get SIGKILL right after the KILL-th answer was sealed; run by test_captions.py.

python killed_captions.py DATASET URL CONCURRENCY KILL
"""

from __future__ import annotations

import os
import signal
import sys

from lirdrec.captions.openai_captioner import OpenAICaptioner
from lirdrec.captions.pipeline import captioning
from lirdrec.captions.prompt_attributes import Attributes, render
from lirdrec.features.remote.client import OpenAIClient
from lirdrec.files.shards import Shards

dataset, url, concurrency, kill = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
seal, sealed = Shards.seal, []


def seal_and_die(self, index, arrays, facts):
    seal(self, index, arrays, facts)
    sealed.append(index)
    if len(sealed) == kill:
        os.kill(os.getpid(), signal.SIGKILL)


Shards.seal = seal_and_die
attributes = Attributes()
captioner = OpenAICaptioner(OpenAIClient(url, concurrency=concurrency), "m", render(attributes))
with captioning(dataset, captioner, attributes) as job:
    job.work()
    job.finish()
