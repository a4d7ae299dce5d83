"""Every promise of SECURITY.md has tests, which are named here; and nothing opens a connection."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest

from captune.cli import main
from tests.report_runs import classify_run, images

ROOT = Path(__file__).parents[1]
# words of SECURITY.md -> tests, as FILE: names
PROMISES = {
    "what a file may cost is read from its header": (
        "images/test_headers.py: test_refused_by_the_header"
        " test_headers_promise_the_size_that_pillow_finds"
    ),
    "one budget of memory": (
        "images/test_memory.py: test_budget_is_never_exceeded_and_serves_in_order"
        " test_memory_limit_is_a_quarter_at_most test_sixteen_threads_take_no_more_than_the_budget"
    ),
    "a limit of pixels": "images/test_decoding.py: test_pixel_limit_is_a_choice",
    "and of seconds": (
        "images/test_processes.py: test_time_is_limited_whatever_the_decoder_does"
        " test_limits_are_numbers"
    ),
    "decoded in a process that can be ended": (
        "images/test_processes.py: test_a_crashed_decoder_is_a_damaged_file"
        " test_memory_beyond_the_promise_is_refused test_no_orphan_after_kill_9"
    ),
    "pipes and devices with an image's name": (
        "images/test_reading.py: test_a_pipe_is_not_waited_for"
        " test_sockets_and_devices_are_not_opened"
    ),
    "a file that cannot be used is named and skipped": "test_bad_input.py: test_all_of_it_at_once",
    "a sidecar that is a link or a pipe": (
        "jobs/test_caption.py: test_a_sidecar_that_is_no_file_of_the_folder_is_left_alone"
    ),
    "one reader with limits of bytes": (
        "metrics/test_files.py: test_what_is_no_file_is_refused_at_once"
        " test_a_file_is_read_up_to_a_limit"
        " metrics/test_command.py:"
        " test_whatever_lies_in_the_place_of_a_file_is_one_sentence_at_once"
    ),
    "everything that is printed goes through one writer": (
        "cli/test_hostile_text.py: test_what_is_printed_does_nothing"
        " test_every_command_is_in_the_table test_libraries_and_logs_are_plain"
    ),
    "pages escape all text and carry a content security policy": (
        "pages/test_page.py: test_every_text_of_a_run_is_text"
        " test_the_page_fetches_nothing_and_runs_only_its_own_script"
        " pages/test_hidden_text.py: test_no_page_holds_what_turns_or_hides"
    ),
    "a CSV cell that a spreadsheet would take for a formula": (
        "test_tables.py: test_a_formula_becomes_text test_a_cell_comes_back"
    ),
    "files are held against the types of their kind": (
        "runs/test_reader.py: test_mutated_runs_are_answered_or_refused_in_a_sentence"
        " test_a_sentence_names_the_field"
    ),
    "array sizes are compared with the header": (
        "runs/test_reader.py: test_maps_are_as_large_as_their_file"
    ),
    "images outside the run's own folder": (
        "runs/test_signature.py: test_a_foreign_root_shows_none_of_the_user_s_images"
        " test_the_user_names_the_folder_of_the_images"
        " test_who_changes_a_run_does_not_keep_its_signature"
    ),
    "sends no file that a link leads to elsewhere": (
        "cli/test_push.py: test_no_link_sends_a_file_that_lies_elsewhere"
    ),
    "what a run says is text in its model card": (
        "cli/test_push.py: test_a_run_of_somebody_else_writes_nothing_into_the_card_but_its_words"
        " jobs/test_cite.py: test_nothing_in_a_run_begins_an_entry"
    ),
    "no pickle is run": (
        "models/test_weights.py: test_a_pickle_with_code_is_refused test_load_state"
    ),
    "no code of a repository, no template": (
        "models/test_vetting.py: test_a_library_sees_what_was_looked_at_and_nothing_else"
    ),
    "the header of the weights is compared": (
        "models/test_vetting.py: test_a_model_that_its_weights_cannot_fill_is_not_built"
        " test_a_header_accounts_for_every_byte"
    ),
    "of a repository the files that a model is made of": (
        "cli/test_push.py: test_files_of_a_hub_that_are_called_like_others_are_not_fetched"
    ),
    "what a file names is fetched only if you say so": (
        "models/test_hub.py: test_a_name_in_a_file_is_fetched_only_when_the_user_says_so"
    ),
    "a list of routes": (
        "webapp/test_routes.py: test_the_framework_has_the_routes_that_were_looked_at"
        " test_what_the_page_does_not_need_is_refused"
    ),
    "with a token as a cookie": (
        "webapp/test_guard.py: test_the_address_that_is_printed_becomes_a_cookie"
        " test_without_the_token_no_route_answers test_a_new_start_has_a_new_token"
    ),
    "other hosts, other origins and other ports are refused": (
        "webapp/test_guard.py: test_another_name_for_this_machine_is_refused"
        " test_a_page_of_another_site_reads_and_changes_nothing"
        " webapp/test_other_sites.py: test_a_page_of_another_site_gets_nothing"
    ),
    "it fetches no address": (
        "webapp/test_guard.py: test_what_another_site_would_be_fetched_from_is_never_asked"
    ),
    "folders that only you may enter, removed however the app ends": (
        "webapp/test_guard.py: test_another_user_of_the_machine_gets_nothing"
        " test_it_listens_to_this_machine_alone_in_a_folder_of_this_user_alone"
        " webapp/test_ending.py: test_whatever_it_does_it_ends_when_it_is_told_to"
        " test_one_that_is_killed_leaves_nothing"
        " test_files.py: test_a_private_folder_sweeps_those_of_killed_processes_and_nothing_else"
    ),
    "results appear whole, by rename": (
        "test_files.py: test_the_file_appears_only_when_it_is_whole"
        " test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_stays"
        " cli/test_full_disk.py: test_answers test_tune test_classify test_embed"
        " runs/test_writing.py: test_a_run_that_is_killed_half_replaced_is_no_run"
    ),
    "nothing that is typed is opened": (
        "webapp/test_shared.py: test_a_typed_folder_or_model_is_refused_and_an_offered_run_is_not"
    ),
    "limits on requests, uploads and jobs": (
        "webapp/test_limits.py: test_all_that_lies_there_and_comes_is_counted_together"
        " test_the_jobs_of_a_browser_are_counted_and_others_go_on"
        " test_200_mb_of_json_take_no_memory"
        " webapp/test_keeping.py: test_a_shared_app_holds_so_many_runs_and_bytes_and_no_more"
    ),
    "images and jobs belong to the browser": (
        "webapp/test_queue.py: test_a_job_is_found_by_its_id_alone"
    ),
    "pinned by SHA-256": (
        "models/test_assets_in_wheels.py: test_wrong_content_is_refused"
        " models/test_assets.py: test_a_changed_file_is_refused_before_it_is_read"
    ),
    "what `make` installs is locked with hashes": (
        "test_project_files.py: test_a_lock_file_has_hashes_and_no_address"
        " test_what_comes_from_npm_is_locked"
    ),
    "`--offline` opens no connection": (
        "test_security.py: test_no_command_opens_a_connection_unasked"
        " models/test_hub.py: test_every_offline_switch_counts"
    ),
    "nothing is sent but by `captune push`": (
        "cli/test_push.py: test_it_asks_first_and_takes_no_for_an_answer"
        " captioning/training/test_reporting.py: test_nothing_is_reported_unasked"
    ),
}


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_has_its_tests(promise: str) -> None:
    assert promise in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    text = ""
    for word in PROMISES[promise].split():
        if word.endswith(":"):
            text = (ROOT / "tests" / word[:-1]).read_text(encoding="utf-8")
        else:
            assert re.search(rf"^(async )?def {word}\(", text, re.MULTILINE), word


@pytest.mark.parametrize("more", [[], ["--offline"]])
def test_no_command_opens_a_connection_unasked(
    colours: Any, colour_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], more: list[str],
) -> None:  # fmt: skip
    def refuse(*where: Any) -> NoReturn:
        raise AssertionError(f"a connection: {where}")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    if not more:
        monkeypatch.delenv("CAPTUNE_OFFLINE")
    monkeypatch.chdir(tmp_path)
    run = str(classify_run(tmp_path / "run", images(tmp_path / "own", ["a.jpg"]), ["a.jpg"]))
    pictures = str(colour_images)
    (tmp_path / "a.json").write_text('{"a": "a dog runs", "b": "a cat"}')
    (tmp_path / "b.json").write_text('{"a": ["a dog runs"], "b": ["a red cat"]}')
    for words in (
        ["classify", pictures, "--labels", "red,blue", "--out", "labels"],
        ["prompts", pictures, "--labels", "red,blue", "--prompt", "{}", "--prompt", "a {}"],
        ["embed", pictures, "--to", "a.npz"],
        ["score", "a.json", "--references", "b.json", "--out", "scores"],
        ["compare", "a.json", "a.json", "--references", "b.json"],
        ["rank", "scores", "--by", "cider", "--out", "gallery"],
        ["report", run, "scores", "--out", "page.html"],
        ["verify", "page.html"],
        ["cite", run],
        ["models"],
        ["plugins"],
        ["cache"],
        ["env"],
    ):
        status = main([*words, *more])
        assert status == 0, (words, capsys.readouterr().err)
