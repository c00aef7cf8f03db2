"""torch.compile for a network's units, where a C compiler is there."""

import os
import shutil

import torch

from dimr_model import DiMR
from orchestrator.errors import UserError

COMPILERS = ("gcc", "clang")
"""What torch's compiler looks for, unless CC names another one."""
VARIANTS = 64
"""The most graphs of one function, after which torch gives up.

Its own 8 are too few. An upsampling's first map and the others, in two branches, with and without gradients,
are 8 already.
"""


def compile_units(model: DiMR, dynamic: bool | None = None) -> DiMR:
    """Compile every unit, in place.

    What is compiled stays in torch's cache on this machine, so the next start is quicker.

    Args:
        dynamic: False where batches have one size; see :meth:`dimr_model.DiMR.compile_units`.

    Raises:
        UserError: there is no C compiler, without which the first step would fail.
    """
    wanted = [os.environ["CC"]] if os.environ.get("CC") else COMPILERS
    if not any(shutil.which(name) for name in wanted):
        raise UserError(
            f"train.compile and sampling.compile need a C compiler, and there is none here "
            f"({' or '.join(wanted)}). Install one (Debian: gcc and libc6-dev), or set both to false."
        )
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    return model.compile_units(dynamic=dynamic)
