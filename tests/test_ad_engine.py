"""Our detectors in PyOD's ADEngine, and behind its MCP server."""

import asyncio
import copy
import csv
import json
import os
import random
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pyod import mcp_server
from pyod.models.auto_encoder import AutoEncoder as PyodAutoEncoder
from pyod.utils.ad_engine import ADEngine
from pyod.utils.data import generate_data

import pyod_ae_plugin
from pyod_ae_plugin.benchmarking.evaluation import Result
from pyod_ae_plugin.benchmarking.summary import detector_means
from pyod_ae_plugin.integrations.ad_engine import extend
from pyod_ae_plugin.integrations.mcp_server import extend_mcp_server, serve

NAMES = ["AutoEncoder", "VAE", "AutoEncoderEnsemble"]
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
QUICK = {"epoch_num": 3, "verbose": 0, "device": "cpu"}


@pytest.fixture
def engine():
    return extend(ADEngine(random_state=0))


@pytest.fixture(scope="module")
def rows():
    X, y = generate_data(train_only=True, n_train=300, n_features=6, random_state=1)
    return X, y


def tabular(n_features, n_samples=1000):
    return {"data_type": "tabular", "n_samples": n_samples, "n_features": n_features}


def knowledge(engine):
    kb = engine.kb
    return copy.deepcopy([kb.algorithms, kb.routing_rules, kb.benchmarks, kb.papers])


def names(plan):
    return [p["detector_name"] for p in (plan, *plan["alternatives"])]


def measured(protocol):
    """What ``benchmarks/quality.py`` wrote of our detectors and of PyOD's with their defaults."""
    with (RESULTS / f"quality-adbench-keel-{protocol}.csv").open(newline="") as file:
        return [
            Result(
                row["detector"],
                row["dataset"],
                int(row["seed"]),
                int(row["n_train"]),
                int(row["n_features"]),
                float(row["roc_auc"]),
            )
            for row in csv.DictReader(file)
            if row["detector"] in NAMES or re.fullmatch(r"pyod\.\w+", row["detector"])
        ]


def ranking(results):
    """The engine's names of the detectors, best mean rank first."""
    called = {name: f"pyod_ae.{name}" for name in NAMES}
    best_first = [mean.detector for mean in detector_means(results)]
    return [called.get(name, name.removeprefix("pyod.")) for name in best_first]


# The knowledge base


def test_it_returns_the_engine_and_twice_is_once(engine):
    once = knowledge(engine)
    assert extend(engine) is engine
    assert knowledge(engine) == once


def test_built_in_entries_stay_as_they_are(engine):
    for theirs, extended in zip(knowledge(ADEngine()), knowledge(engine), strict=True):
        if "rules" in theirs:
            n_rules = len(theirs["rules"])
            extended["rules"] = extended["rules"][:n_rules]
        assert {key: extended[key] for key in theirs} == theirs
    assert type(engine.build_detector({"detector_name": "AutoEncoder"})) is PyodAutoEncoder


def test_other_engines_are_untouched_even_with_the_same_knowledge_base():
    engine, other = ADEngine(), ADEngine()
    other.kb = engine.kb
    extend(engine, replace=True)
    assert knowledge(other) == knowledge(ADEngine())


def test_a_subclass_keeps_its_own_entries_and_rules():
    class Extended(ADEngine):
        pass

    engine = Extended()
    engine.kb.algorithms["Mine"] = {**engine.kb.algorithms["KNN"], "full_name": "Mine"}
    engine.kb.routing_rules["rules"][0]["reason"] = "mine"
    extend(engine)
    assert engine.explain_detector("Mine")["full_name"] == "Mine"
    assert engine.kb.routing_rules["rules"][0]["reason"] == "mine"


@pytest.mark.parametrize("wrong", [ADEngine, None, ADEngine().kb])
def test_what_is_no_engine_is_refused(wrong):
    with pytest.raises(TypeError, match="engine must be an ADEngine"):
        extend(wrong)


@pytest.mark.parametrize("prefixed_first", [False, True])
def test_replace_gives_ours_the_bare_names_for_good(prefixed_first):
    engine = ADEngine()
    if prefixed_first:
        extend(engine)
    replaced = knowledge(extend(engine, replace=True))
    assert not any(name.startswith("pyod_ae.") for name in engine.kb.algorithms)
    assert len(engine.kb.algorithms) == len(ADEngine().kb.algorithms) + 1
    for name in NAMES:
        built = engine.build_detector(engine.make_plan([name]))
        assert type(built) is getattr(pyod_ae_plugin, name)
    plan = engine.plan_detection(tabular(8), "accuracy")
    assert names(plan) == ["AutoEncoderEnsemble", "VAE", "AutoEncoder"]
    assert knowledge(extend(engine)) == replaced


@pytest.mark.parametrize("name", NAMES)
def test_entries_have_the_fields_of_built_in_ones_and_tell_the_defaults(engine, name):
    facts = engine.explain_detector(f"pyod_ae.{name}")
    theirs = engine.explain_detector("VAE")
    assert {key: type(value) for key, value in facts.items()} == {
        key: type(value) for key, value in theirs.items()
    }
    defaults = getattr(pyod_ae_plugin, name)().get_params(deep=False)
    assert facts["default_params"].items() <= defaults.items()
    assert facts["paper"]["id"] in engine.kb.papers
    assert set(facts["benchmark_refs"]) <= set(engine.get_benchmarks())


@pytest.mark.parametrize("protocol", ["outlier", "novelty"])
def test_rankings_are_those_of_the_benchmark(engine, protocol):
    results = measured(protocol)
    facts = engine.get_benchmarks("pyod_ae_plugin")["pyod_ae_plugin"]
    ranked = ranking(results)
    assert facts["rankings"][f"{protocol}_top_5"] == ranked[:5]
    assert facts["n_algorithms"] == len(ranked)
    assert facts["n_datasets"] == len({r.dataset for r in results})
    for name in NAMES:
        entry = engine.explain_detector(f"pyod_ae.{name}")
        assert ranked[entry["benchmark_rank"][f"pyod_ae_plugin_{protocol}"] - 1] == entry["name"]


def test_rules_rest_on_the_data_sets_that_they_apply_to(engine):
    results = [r for r in measured("outlier") if 3 <= r.n_features < 100]
    accurate = [f"pyod_ae.{name}" for name in ("AutoEncoderEnsemble", "VAE", "AutoEncoder")]
    assert set(ranking(results)[:3]) == set(accurate)
    assert max(detector_means(results), key=lambda mean: mean.values[0]).detector == NAMES[2]
    assert names(engine.plan_detection(tabular(8), "accuracy")) == accurate


# Routing


@pytest.mark.parametrize("n_features", [3, 99])
@pytest.mark.parametrize("n_samples", [100, 10_000])
def test_tables_are_routed_to_ours(engine, n_features, n_samples):
    profile = tabular(n_features, n_samples)
    plan = engine.plan_detection(profile)
    theirs = names(ADEngine().plan_detection(profile))
    assert names(plan) == ["pyod_ae.VAE", *theirs[:2]]
    assert plan["params"] == {"verbose": 0, "contamination": 0.1}
    assert plan["evidence"] == ["pyod_ae_plugin"]
    assert names(engine.plan_detection(profile, "accuracy")) == [
        "pyod_ae.AutoEncoderEnsemble",
        "pyod_ae.VAE",
        "pyod_ae.AutoEncoder",
    ]


@pytest.mark.parametrize("priority", ["speed", "balanced", "accuracy"])
@pytest.mark.parametrize(
    "profile",
    [tabular(2), tabular(100), tabular(500), {"data_type": "time_series", "n_samples": 900}],
    ids=str,
)
def test_other_data_are_routed_as_before(engine, priority, profile):
    plan = engine.plan_detection(profile, priority)
    assert plan == ADEngine().plan_detection(profile, priority)


def test_speed_is_routed_as_before(engine):
    plan = engine.plan_detection(tabular(8), "speed")
    assert plan == ADEngine().plan_detection(tabular(8), "speed")


def test_excluded_detectors_are_not_planned(engine):
    constraints = {"exclude_detectors": ["pyod_ae.VAE"]}
    plan = engine.plan_detection(tabular(8), "accuracy", constraints)
    assert names(plan)[:2] == ["pyod_ae.AutoEncoderEnsemble", "pyod_ae.AutoEncoder"]


def test_a_language_model_may_choose_ours(engine):
    prompts = []

    def client(prompt):
        prompts.append(prompt)
        return '[{"detector": "pyod_ae.AutoEncoderEnsemble", "justification": "steady"}]'

    plan = engine.plan_detection(tabular(50), top_k=1, llm_client=client, llm_strict=True)
    assert plan["detector_name"] == "pyod_ae.AutoEncoderEnsemble"
    best_for = engine.explain_detector("pyod_ae.VAE")["best_for"]
    assert f"pyod_ae.VAE (deep_learning): best_for={best_for!r}" in prompts[0]


# From rows to results


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_chosen_by_name_gives_what_it_gives_itself(engine, name, rows):
    X, _ = rows
    plan = engine.make_plan([f"pyod_ae.{name}"], params=[{**QUICK, "contamination": 0.2}])
    result = engine.run_detection(X[:250], plan, X_test=X[250:])
    detector = getattr(pyod_ae_plugin, name)(**QUICK, contamination=0.2, random_state=0)
    detector.fit(X[:250])
    assert type(result["detector"]) is type(detector)
    np.testing.assert_array_equal(result["scores_train"], detector.decision_scores_)
    np.testing.assert_array_equal(result["scores_test"], detector.decision_function(X[250:]))
    np.testing.assert_array_equal(result["labels_test"], detector.predict(X[250:]))
    assert result["n_anomalies"] == 50


@pytest.mark.parametrize("as_frame", [pytest.param(False, marks=pytest.mark.slow), True])
def test_findings_of_ours_are_explained_by_contributions(as_frame):
    names = ["flow", "level", "pressure", "heat"]
    X = np.random.default_rng(0).normal(size=(400, 4))
    X[:, 1:3] = X[:, :1] + 0.1 * X[:, 1:3]
    X[7, 2] += 3  # far from the other features of its row, not from its mean
    table = pd.DataFrame(X, columns=names) if as_frame else X
    engine = extend(extend(ADEngine(random_state=0)))
    plan = engine.make_plan(["pyod_ae.AutoEncoder"], params=[{"verbose": 0, "device": "cpu"}])
    result = engine.run_detection(table, plan)
    (entry,) = engine.explain_findings(result, indices=[7], X=table, feature_names=names)
    features = entry["contributing_features"]
    assert features[0]["name"] == "pressure"
    expected = result["detector"].explain(table)[7]
    assert [f["contribution"] for f in features] == sorted(expected, key=abs, reverse=True)
    theirs = ADEngine.explain_findings(engine, result, [7], X=X, feature_names=names)[0]
    for feature in features:
        known = {k: v for k, v in feature.items() if k != "contribution"}
        (same,) = [f for f in theirs["contributing_features"] if f["name"] == feature["name"]]
        assert known == pytest.approx(same)
    by_pyod = engine.run_detection(X, engine.make_plan(["IForest"]))
    assert engine.explain_findings(by_pyod, X=X) == ADEngine.explain_findings(engine, by_pyod, X=X)
    assert "contributing_features" not in engine.explain_findings(result)[0]
    assert copy.deepcopy(engine).explain_findings(result, [7], X=table)[0]["index"] == 7


def test_results_are_analysed_explained_and_reported(engine, rows):
    X, y = rows
    result = engine.detect(X, X_test=X[:10])
    assert result["plan"]["detector_name"] == "pyod_ae.VAE"
    top = [entry["index"] for entry in result["analysis"]["top_anomalies"]]
    assert y[top].all()
    assert len(result["analysis"]["feature_importance"]) == 6
    explained = engine.explain_findings(result, top_k=3, X=X, feature_names=list("abcdef"))
    assert [entry["index"] for entry in explained] == top[:3]
    assert {c["name"] for c in explained[0]["contributing_features"]} <= set("abcdef")
    assert "pyod_ae.VAE" in engine.generate_report(result, result["analysis"])
    step = engine.suggest_next_step(result, result["analysis"], "try a different one")
    assert step["new_plan"]["detector_name"] == "KNN"


@pytest.mark.slow
def test_an_investigation_is_the_same_for_the_same_seed(rows):
    X, y = rows
    states = [extend(ADEngine(random_state=seed)).investigate(X) for seed in (0, 0, 1)]
    for state in states:
        assert [r["error"] for r in state.results] == [None] * 3
        assert state.results[0]["detector_name"] == "pyod_ae.VAE"
        assert state.next_action["action"] == "report_to_user"
    first, again, other = (state.results[0]["scores_train"] for state in states)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(states[0].consensus["scores"], states[1].consensus["scores"])
    assert (first != other).any()
    engine = extend(ADEngine())
    assert engine.validate(states[0], y)["per_detector"]["pyod_ae.VAE"]["roc_auc"] > 0.95
    best = engine.report(states[0], format="json")["best_detector"]
    assert best["name"] == states[0].analysis["best_detector"]


@pytest.mark.slow
def test_an_investigation_by_ours_alone_leaves_global_generators_alone(engine, rows):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    state = engine.investigate(rows[0], priority="accuracy")
    assert {r["detector_name"] for r in state.results} == {f"pyod_ae.{name}" for name in NAMES}
    assert {r["status"] for r in state.results} == {"success"}
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.slow
def test_an_investigation_goes_on_with_feedback(engine, rows):
    state = engine.investigate(rows[0])
    state = engine.iterate(state, {"action": "exclude", "detectors": ["KNN", "IForest"]})
    assert [plan["detector_name"] for plan in state.plans] == ["pyod_ae.VAE"]
    state = engine.analyze(engine.run(state))
    state = engine.iterate(state, {"action": "adjust_contamination", "value": 0.02})
    state = engine.analyze(engine.run(state))
    assert state.results[0]["n_anomalies"] == 6
    state = engine.iterate(state, "without pyod_ae.VAE")
    assert "pyod_ae.VAE" not in [plan["detector_name"] for plan in state.plans]


def test_a_detector_that_fails_is_replaced(engine, rows):
    state = engine.plan(engine.start(rows[0]))
    state.plans[0]["params"]["lr"] = -1
    state = engine.run(state)
    assert "'lr' parameter of VAE must be" in state.results[0]["error"]
    state = engine.iterate(state, {"action": "recover"})
    assert "pyod_ae.VAE" not in [plan["detector_name"] for plan in state.plans]
    assert len(state.plans) == 3


class Logging(pyod_ae_plugin.AutoEncoder):
    """A detector with another parameter that names a file."""

    _parameter_constraints = {  # noqa: RUF012
        **pyod_ae_plugin.AutoEncoder._parameter_constraints,
        "log": [str, os.PathLike, None],
    }

    def __init__(self, log=None, random_state=None):
        super().__init__(random_state=random_state)
        self.log = log


@pytest.mark.parametrize("name", [*NAMES, "Logging"])
@pytest.mark.parametrize("as_pairs", [False, True])
def test_a_plan_cannot_name_files(engine, name, as_pairs, rows, tmp_path):
    facts = engine.kb.algorithms["pyod_ae.AutoEncoder"]
    engine.kb.algorithms["pyod_ae.Logging"] = {**facts, "class_path": f"{__name__}.Logging"}
    parameter = "log" if name == "Logging" else "checkpoint"
    params = {parameter: str(tmp_path / "chosen.safetensors")}
    plan = engine.make_plan([f"pyod_ae.{name}"])
    plan["params"] = list(params.items()) if as_pairs else params
    for refuses in (engine, copy.deepcopy(engine), extend(engine)):
        with pytest.raises(ValueError, match=rf"{parameter}='.*chosen.* names a file"):
            refuses.run_detection(rows[0], plan)
    assert list(tmp_path.iterdir()) == []
    plan["params"] = {parameter: None}
    assert engine.build_detector(plan).get_params()[parameter] is None


def test_an_investigation_refuses_plans_that_name_files(engine, rows, tmp_path):
    state = engine.plan(engine.start(rows[0]))
    state.plans[0]["params"]["checkpoint"] = str(tmp_path / "chosen.safetensors")
    state = engine.run(state)
    assert "names a file, which a plan may not" in state.results[0]["error"]
    assert list(tmp_path.iterdir()) == []


def test_only_the_checkpoint_can_name_a_file():
    """What else takes text is looked up by name, or is a device."""
    looked_up = {"network", "score_head", "device", "checkpoint"}
    for name in NAMES:
        constraints = getattr(pyod_ae_plugin, name)._parameter_constraints
        assert {p for p, kinds in constraints.items() if str in kinds} == looked_up
        assert {p for p, kinds in constraints.items() if os.PathLike in kinds} == {"checkpoint"}


def test_detectors_are_compared(engine):
    compared = engine.compare_detectors(["pyod_ae.VAE", "VAE"])
    assert [facts["name"] for facts in compared] == ["pyod_ae.VAE", "VAE"]
    listed = [facts["name"] for facts in engine.list_detectors("tabular")]
    assert {f"pyod_ae.{name}" for name in NAMES} <= set(listed)
    assert engine.compare_detectors(data_type="tabular") == ADEngine().compare_detectors(
        data_type="tabular"
    )


# The MCP server


@pytest.fixture
def rows_file(tmp_path, rows):
    np.save(tmp_path / "rows.npy", rows[0])
    return str(tmp_path / "rows.npy")


@pytest.fixture
def _fresh_server(monkeypatch):
    """PyOD keeps the server's engine in its module; here one that is gone after the test."""
    monkeypatch.setattr(mcp_server, "_engine", None)


async def _through_the_tools(session, data_path):
    """What a client does: profile, plan, build, run, analyse, explain and compare."""

    async def call(tool, **arguments):
        answer = await session.call_tool(tool, arguments)
        assert not answer.isError, answer
        return json.loads(answer.content[0].text)

    await session.initialize()
    assert len((await session.list_tools()).tools) == 10
    profile = await call("profile_data", data_path=data_path)
    plan = await call("plan_detection", data_profile=json.dumps(profile))
    built = await call("build_detector", plan=json.dumps(plan))
    result = await call("run_detection", data_path=data_path, plan=json.dumps(plan))
    analysis = await call("analyze_results", result=json.dumps(result), data_path=data_path)
    explained = await call("explain_findings", result=json.dumps(result), data_path=data_path)
    compared = await call("compare_detectors", names="pyod_ae.VAE, IForest")
    return plan, built, result, analysis, explained, compared


def _check_tools(answers, X):
    plan, built, result, analysis, explained, compared = answers
    assert plan["detector_name"] == "pyod_ae.VAE"
    namespace = {}
    exec(built["code_snippet"], namespace)
    assert type(namespace["clf"]) is pyod_ae_plugin.VAE
    expected = pyod_ae_plugin.VAE(random_state=0, verbose=0).fit(X).decision_scores_
    np.testing.assert_array_equal(result["scores_train"], expected)
    assert analysis["top_anomalies"][0]["index"] == explained[0]["index"] == expected.argmax()
    assert [facts["name"] for facts in compared] == ["pyod_ae.VAE", "IForest"]


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_server")
def test_the_tools_work_with_ours(rows, rows_file):
    fastmcp = pytest.importorskip("mcp.server.fastmcp")
    from mcp.shared.memory import create_connected_server_and_client_session as connect

    engine = extend_mcp_server(random_state=0)
    assert extend_mcp_server() is engine  # the seed stays
    server = fastmcp.FastMCP("pyod")
    for tool in mcp_server._TOOL_FUNCTIONS:
        server.tool()(tool)

    async def converse():
        async with connect(server._mcp_server) as session:
            return await _through_the_tools(session, rows_file)

    _check_tools(asyncio.run(converse()), rows[0])


@pytest.mark.usefixtures("_fresh_server")
def test_the_tools_refuse_plans_that_name_files(rows_file, tmp_path):
    extend_mcp_server(random_state=0)
    chosen = tmp_path / "chosen.safetensors"
    for name in NAMES:
        plan = {"detector_name": f"pyod_ae.{name}", "params": {**QUICK, "checkpoint": str(chosen)}}
        answer = json.loads(mcp_server.run_detection(rows_file, json.dumps(plan)))
        assert answer["type"] == "ValueError"
        assert f"checkpoint='{chosen}' names a file" in answer["details"]
        del plan["params"]["checkpoint"]
        assert "scores_train" in json.loads(mcp_server.run_detection(rows_file, json.dumps(plan)))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


@pytest.mark.slow
def test_the_server_serves_ours_over_stdio(rows, rows_file):
    pytest.importorskip("mcp.server.fastmcp")
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import get_default_environment, stdio_client

    module = "pyod_ae_plugin.integrations.mcp_server"
    root = str(Path(pyod_ae_plugin.__file__).parents[1])
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", module, "--random-state", "0"],
        env={
            **get_default_environment(),
            "PYTHONPATH": root,
            "OMP_NUM_THREADS": "1",
            "MKL_CBWR": os.environ["MKL_CBWR"],
        },
    )

    async def converse():
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            return await _through_the_tools(session, rows_file)

    _check_tools(asyncio.run(converse()), rows[0])


@pytest.mark.usefixtures("_fresh_server")
def test_without_mcp_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.server.fastmcp", None)
    with pytest.raises(ImportError, match=r"pyod-ae-plugin\[mcp\]"):
        serve()
    assert mcp_server._engine is None
