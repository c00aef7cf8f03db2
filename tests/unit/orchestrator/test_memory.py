"""Where memory ran out, the user learns who used it and what to set."""

from orchestrator.memory import memory_advice

REASON = (
    "The actor died unexpectedly before finishing this task. 1 worker(s) were killed due to the node running "
    "low on memory. Memory on the node (IP: 192.0.2.2, ID: 8de7) was 22.56GB used / 23.54GB limit (0.958)\n"
    "OOM kill reason: ...\nTop 10 memory users: PID\tMEM(GB)\tCOMMAND\n"
    "16569\t12.62\t.venv/bin/python jobs/train_g.py --config quickstart\n16870\t8.08\tray::_SampleActor\n"
    "1\t0.01\tinit\n\nRefer to the documentation"
)


def test_it_says_who_used_how_much_and_what_to_set() -> None:
    for reason in (REASON, REASON.replace("\n", "\\n").replace("\t", "\\t")):
        advice = memory_advice(reason)
        assert advice is not None
        assert "on 192.0.2.2: 22.56GB of 23.54GB were in use" in advice
        assert ".venv/bin/python jobs/train_g.py --config 12.62 GB, ray::_SampleActor 8.08 GB" in advice
        assert "--sampling.actors" in advice and "\n" not in advice


def test_other_deaths_are_not_taken_for_it() -> None:
    assert memory_advice("The actor died because its node has died.") is None
    assert memory_advice("ray.exceptions.OutOfMemoryError: Task was killed") is not None
