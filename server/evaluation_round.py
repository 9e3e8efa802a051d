"""One evaluation: every site scores a state on its own cases, the coordinator averages."""

from collections.abc import Sequence
from dataclasses import asdict

from flwr.app import MessageType

from medsa_model.logs import append_metrics, logger
from medsa_model.records import fingerprint
from medsa_model.rejections import Code, Rejected
from medsa_model.state import AdapterState
from server.exchange import exchange
from server.scores import read_scores
from server.strategy import order
from server.study import Study


def evaluate_round(
    study: Study, evaluate_on: Sequence[str] | None, state: AdapterState, number: int, part: str
) -> float | None:
    """Score `state` on the sites' cases of `part`; returns the mean Dice of the main prompt."""
    rules, config = study.rules, study.config
    sites = study.present(evaluate_on)
    targets = {node.node_id: node.site for node in sites if node.cases[part]}
    most = {node.site: node.cases[part] for node in sites}
    content, echo = order(config, study.manifest, state, part=part)
    prompts = [kind.name for kind in config.prompt.evaluate]
    structures = config.data.classes if len(config.data.classes) > 1 else ()
    total, cases = 0.0, 0
    silent = set(targets.values())
    study.audit("asked", round=number, sites=sorted(targets.values()), what=part,
                state=fingerprint(content.array_records["arrays"]))  # fmt: skip
    for answer in exchange(study.grid, targets, MessageType.EVALUATE, content, str(number),
                           rules.timeout):  # fmt: skip
        silent.discard(answer.site)
        try:
            scores = read_scores(answer, prompts, structures, most[answer.site], echo)
        except Rejected as rejected:
            study.reject(number, answer.site, rejected.code, str(rejected), "scores")
            continue
        except Exception as error:  # what nobody thought of concerns the site that sent it alone
            logger.exception("scores of %s that cannot be judged", answer.site)
            study.reject(number, answer.site, Code.UNREADABLE, type(error).__name__, "scores")
            continue
        study.note(
            "traffic", round=number, site=answer.site, part=part, empty=scores.empty,
            up_bytes=answer.received_bytes, down_bytes=answer.sent_bytes,
        )  # fmt: skip
        for prompt, score in scores.by_prompt.items():
            of_structures = scores.by_structure.get(prompt, {})
            told = {name: asdict(each) for name, each in of_structures.items()}
            append_metrics(study.run, "evaluate", round=number, site=answer.site, part=part,
                           prompt=prompt, **asdict(score), structures=told)  # fmt: skip
        if main := scores.by_prompt.get(prompts[0]):
            total, cases = total + main.dice * main.cases, cases + main.cases
    for site in sorted(silent):
        logger.warning("round %d: no scores from %s in time", number, site)
        study.audit("missing", round=number, site=site, what=part)
    return total / cases if cases else None
