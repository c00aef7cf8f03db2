"""torch.compile for a network's units, where a C compiler is there."""

import os
import shutil

from dimr_model import DiMR
from orchestrator.errors import UserError

COMPILERS = ("gcc", "clang")
"""What torch's compiler looks for, unless CC names another one."""


def compile_units(model: DiMR) -> DiMR:
    """Compile every unit, in place.

    What is compiled stays in torch's cache on this machine, so the next start is quicker.

    Raises:
        UserError: there is no C compiler, without which the first step would fail.
    """
    wanted = [os.environ["CC"]] if os.environ.get("CC") else COMPILERS
    if not any(shutil.which(name) for name in wanted):
        raise UserError(
            f"train.compile and sampling.compile need a C compiler, and there is none here "
            f"({' or '.join(wanted)}). Install one (Debian: gcc and libc6-dev), or set both to false."
        )
    return model.compile_units()
