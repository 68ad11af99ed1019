//! Real directories: what is published, what stays, and what a run that is killed at any point leaves.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A directory for everything, and the output directory in it.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// All files, with their texts, but not the hidden ones.
    fn files(&self) -> BTreeMap<String, String> {
        self.all().into_iter().filter(|(name, _)| !name.contains(".dflow-")).collect()
    }

    fn all(&self) -> BTreeMap<String, String> {
        let root = self.path("");
        let (mut found, mut todo) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap().display().to_string();
                    found.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
                }
            }
        }
        found
    }

    fn hidden(&self) -> Vec<String> {
        let hidden = |name: &String| name.contains(".dflow-") && !name.ends_with("/.dflow-result");
        let mut found: Vec<String> = self.all().into_keys().filter(hidden).collect();
        found.sort();
        found
    }

    fn target(&self, call: &str, outputs: &[(&str, &str)], overwrite: bool) -> Result<Target, OutputError> {
        self.target_at("r", call, outputs, overwrite)
    }

    fn target_at(
        &self,
        name: &str,
        call: &str,
        outputs: &[(&str, &str)],
        overwrite: bool,
    ) -> Result<Target, OutputError> {
        let params = [("top".to_owned(), call.to_owned())].into();
        let mut planned: Vec<Planned> = Vec::new();
        for (name, _) in outputs {
            let (name, many) = name.split_once('/').map_or((*name, false), |(name, _)| (name, true));
            planned.push(Planned { name: name.to_owned(), many });
        }
        Target::new(&self.path(name), overwrite, Call::new("w", &params, &[]), planned)
    }

    /// What a run does, until its outputs are written.
    fn staged(&self, target: Target, outputs: &[(&str, &str)]) -> Result<Staging, OutputError> {
        static RUN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        target.check()?;
        let run = RUN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let staging = Staging::create(target, &format!("{run:012x}{run:020x}"))?;
        for (name, text) in outputs {
            let path = staging.path(name, None);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Ok(staging)
    }

    fn run(&self, call: &str, outputs: &[(&str, &str)], overwrite: bool) -> Result<(), String> {
        let target = self.target(call, outputs, overwrite).map_err(|error| error.to_string())?;
        let staging = self.staged(target, outputs).map_err(|error| error.to_string())?;
        staging.publish().map_err(|error| error.to_string())
    }

    #[track_caller]
    fn assert_files(&self, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(self.files(), expected);
    }
}

#[test]
fn the_same_call_replaces_its_result_and_leaves_nothing_hidden() {
    let place = Place::new();
    place.run("1", &[("a", "first"), ("p/00000", "x"), ("p/00001", "y")], false).unwrap();
    let folder = place.path("r").metadata().unwrap();
    place.run("1", &[("a", "second"), ("p/00000", "z")], false).unwrap();
    place.assert_files(&[("r/a", "second"), ("r/p/00000", "z")]);
    assert_eq!(place.hidden(), Vec::<String>::new());
    assert_ne!(place.path("r").metadata().unwrap().ino(), folder.ino(), "the directory was replaced in one step");
}

#[test]
fn the_result_of_another_call_is_replaced_only_on_request() {
    let place = Place::new();
    place.run("1", &[("a", "first")], false).unwrap();
    let refused = place.run("2", &[("a", "second")], false).unwrap_err();
    assert!(refused.contains("the parameter 'top' was '1', and is now '2'"), "{refused}");
    place.assert_files(&[("r/a", "first")]);
    place.run("2", &[("a", "second")], true).unwrap();
    place.assert_files(&[("r/a", "second")]);
}

#[test]
fn foreign_files_are_named_and_kept() {
    let place = Place::new();
    place.run("1", &[("a", "first"), ("b", "first")], false).unwrap();
    for number in 0..7 {
        place.put(&format!("r/notes{number}"), "mine");
    }
    let refused = place.run("1", &[("a", "second")], false).unwrap_err();
    let expected = "7 files that dflow did not write: notes0, notes1, notes2, notes3, notes4 and 2 more";
    assert!(refused.contains(expected), "{refused}");
    // Even then they stay, and only what the earlier result consisted of goes.
    place.run("1", &[("a", "second")], true).unwrap();
    assert_eq!(place.files().len(), 8);
    assert_eq!(place.files()["r/a"], "second");
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[test]
fn a_changed_output_is_named_and_replaced_only_on_request() {
    let place = Place::new();
    place.run("1", &[("a", "first")], false).unwrap();
    place.put("r/a", "edited by hand");
    let refused = place.run("1", &[("a", "second")], false).unwrap_err();
    assert!(refused.contains("1 output that was changed since it was published: a"), "{refused}");
    // An output that the call no longer has does not take the place of anything.
    place.run("1", &[("b", "second")], true).unwrap();
    place.assert_files(&[("r/a", "edited by hand"), ("r/b", "second")]);
    place.run("1", &[("a", "third")], true).unwrap();
    place.assert_files(&[("r/a", "third")]);
}

#[test]
fn a_link_or_directory_at_the_path_of_an_output_is_not_followed() {
    let place = Place::new();
    place.put("elsewhere", "precious");
    place.run("1", &[("a", "first")], false).unwrap();
    fs::remove_file(place.path("r/a")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("r/a")).unwrap();
    assert!(place.run("1", &[("a", "second")], false).unwrap_err().contains("changed"));
    place.run("1", &[("a", "second")], true).unwrap();
    place.assert_files(&[("elsewhere", "precious"), ("r/a", "second")]);
    fs::remove_file(place.path("r/a")).unwrap();
    place.put("r/a/mine", "precious");
    let refused = place.run("1", &[("a", "third")], true).unwrap_err();
    assert!(refused.contains("a directory with other files"), "{refused}");
    assert_eq!(place.files()["r/a/mine"], "precious");
}

#[test]
fn an_output_may_become_a_directory_of_parts_and_vice_versa() {
    let place = Place::new();
    for overwrite in [false, true] {
        place.put("r2/keep", "so that files are moved one by one");
        place.run("1", &[("a", "file")], overwrite).unwrap();
        if overwrite {
            place.put("r/mine", "precious");
        }
        place.run("1", &[("a/00000", "part")], overwrite).unwrap();
        assert_eq!(place.files()["r/a/00000"], "part");
        place.run("1", &[("a", "file")], overwrite).unwrap();
        assert_eq!(place.files()["r/a"], "file");
    }
    assert_eq!(place.files()["r/mine"], "precious");
}

#[test]
fn an_older_release_or_a_forged_manifest_permits_nothing() {
    let place = Place::new();
    place.put("r/.dflow-output", "1234");
    place.put("r/a", "old");
    let refused = place.run("1", &[("a", "new")], false).unwrap_err();
    assert!(refused.contains("older dflow"), "{refused}");
    fs::remove_dir_all(place.path("r")).unwrap();
    place.put("precious", "mine");
    place.run("1", &[("a", "old")], false).unwrap();
    let manifest = fs::read_to_string(place.path("r/.dflow-result")).unwrap();
    place.put("r/.dflow-result", &manifest.replace("\"path\": \"a\"", "\"path\": \"../precious\""));
    let refused = place.run("1", &[("a", "new")], false).unwrap_err();
    assert!(refused.contains("did not write: .dflow-result, a"), "{refused}");
}

#[test]
fn an_empty_directory_is_filled_and_keeps_its_identity() {
    let place = Place::new();
    fs::create_dir(place.path("r")).unwrap();
    let before = place.path("r").metadata().unwrap().ino();
    place.run("1", &[("a", "new")], false).unwrap();
    assert_eq!(place.path("r").metadata().unwrap().ino(), before);
    place.assert_files(&[("r/a", "new")]);
}

#[test]
fn a_link_to_the_output_directory_stays_a_link() {
    let place = Place::new();
    fs::create_dir(place.path("real")).unwrap();
    std::os::unix::fs::symlink(place.path("real"), place.path("r")).unwrap();
    for text in ["first", "second"] {
        place.run("1", &[("a", text)], false).unwrap();
        assert_eq!(place.files()["real/a"], text);
    }
    assert!(place.path("r").symlink_metadata().unwrap().is_symlink());
    std::os::unix::fs::symlink(place.path("nowhere"), place.path("dangling")).unwrap();
    assert!(place.target_at("dangling", "1", &[], false).is_err());
}

#[test]
fn a_target_below_a_link_has_the_same_path_before_and_after_it_exists() {
    let place = Place::new();
    fs::create_dir(place.path("real")).unwrap();
    std::os::unix::fs::symlink(place.path("real"), place.path("link")).unwrap();
    let path = || place.target_at("link/x/r", "1", &[], false).unwrap().path().to_owned();
    let before = path();
    assert_eq!(before, place.path("real/x/r"));
    fs::create_dir_all(place.path("link/x/r")).unwrap();
    assert_eq!(path(), before);
}

#[test]
fn files_added_during_the_run_are_not_lost() {
    let place = Place::new();
    place.run("1", &[("a", "first")], false).unwrap();
    let outputs = [("a", "second")];
    let staging = place.staged(place.target("1", &outputs, false).unwrap(), &outputs).unwrap();
    place.put("r/notes", "mine");
    let error = staging.publish().unwrap_err();
    assert!(error.to_string().contains("notes"), "{error}");
    assert_eq!(fs::read_to_string(error.kept.join("a")).unwrap(), "second");
    assert!(error.kept.file_name().unwrap().to_str().unwrap().starts_with("r.unpublished-"));
    assert_eq!(place.files()["r/a"], "first");
    assert_eq!(place.files()["r/notes"], "mine");
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[test]
fn results_that_were_moved_or_copied_are_never_touched() {
    let place = Place::new();
    place.run("1", &[("a", "first")], false).unwrap();
    for hidden in [".r.bak", ".r.0123456789ab", ".dflow-staging-0123456789ab"] {
        fs::rename(place.path("r"), place.path(hidden)).unwrap();
        place.run("1", &[("a", "first")], false).unwrap();
        place.run("1", &[("a", "first")], false).unwrap();
        assert_eq!(fs::read_to_string(place.path(hidden).join("a")).unwrap(), "first", "{hidden}");
    }
}

/// Forgets a staging directory, as a killed process does: only the lock goes.
fn kill(mut staging: Staging) {
    staging.finished = true;
}

#[test]
fn files_of_a_killed_run_are_removed_by_the_next_run() {
    let place = Place::new();
    let outputs = [("a", "half")];
    let living = place.staged(place.target_at("living", "1", &outputs, false).unwrap(), &outputs).unwrap();
    let dead = place.staged(place.target_at("dead", "1", &outputs, false).unwrap(), &outputs).unwrap();
    let (living, dead) = (living, {
        let folder = dead.folder.clone();
        kill(dead);
        folder
    });
    let copy = place.path(".dflow-staging-copy");
    assert!(std::process::Command::new("cp").arg("-a").args([&dead, &copy]).status().unwrap().success());
    assert!(leftovers(&place.path("")).iter().any(|line| line.contains("was copied or moved")));
    assert!(leftovers(&place.path("")).iter().any(|line| line.contains("is what a killed run has left")));
    place.run("1", &[("a", "done")], false).unwrap();
    assert!(!dead.exists());
    assert!(copy.exists(), "what is not provably dead stays");
    assert!(living.path("a", None).exists(), "a run that goes on was disturbed");
    living.publish().unwrap();
    assert_eq!(place.files()["living/a"], "half");
}

#[test]
fn an_output_without_parts_is_an_empty_folder() {
    let place = Place::new();
    let target = place.target("1", &[("a", "x"), ("p/00000", "")], false).unwrap();
    place.staged(target, &[("a", "x")]).unwrap().publish().unwrap();
    assert!(place.path("r/p").read_dir().unwrap().next().is_none());
}

#[test]
fn a_folder_of_parts_that_cannot_be_made_is_said_and_the_outputs_are_kept() {
    let place = Place::new();
    let target = place.target("1", &[("a", "x"), ("p/00000", "")], false).unwrap();
    let staging = place.staged(target, &[("a", "x")]).unwrap();
    fs::write(staging.path("p", None), "in the way").unwrap();
    let error = staging.publish().unwrap_err();
    assert!(error.to_string().contains("cannot create the directory"), "{error}");
    assert_eq!(fs::read_to_string(error.kept.join("a")).unwrap(), "x");
    assert!(!place.path("r").exists());
}

/// On a shared filesystem a free lock may only mean that the run is on another machine.
#[test]
fn what_a_run_on_another_machine_writes_is_left_alone_and_named() {
    let place = Place::new();
    let outputs = [("a", "half")];
    let target = place.target("1", &outputs, false).unwrap();
    let staging = place.staged(target.clone(), &outputs).unwrap();
    let folder = staging.folder.clone();
    kill(staging);
    let marker = folder.join("marker.json");
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&marker).unwrap()).unwrap();
    text["machine"] = serde_json::json!({ "boot": "another", "identity": "id node-b" });
    fs::write(&marker, text.to_string()).unwrap();
    let named = format!("{} belongs to a run on node-b; if that run is dead, remove the directory", folder.display());
    assert_eq!(target.check().unwrap(), [named.as_str()]);
    assert_eq!(leftovers(&place.path("r")), [named]);
    place.run("1", &[("a", "done")], false).unwrap();
    assert_eq!(fs::read_to_string(folder.join("new/a")).unwrap(), "half");
    // A marker that does not say which machine it is from is not trusted either.
    text.as_object_mut().unwrap().remove("machine");
    fs::write(&marker, text.to_string()).unwrap();
    place.run("1", &[("a", "done")], false).unwrap();
    assert!(folder.exists());
}

/// Whether it is asked about an output directory or about the directory that holds it.
#[test]
fn leftovers_are_found_from_the_output_folder_too() {
    let place = Place::new();
    let outputs = [("a", "half")];
    let staging = place.staged(place.target("1", &outputs, false).unwrap(), &outputs).unwrap();
    let folder = staging.folder.clone();
    kill(staging);
    fs::create_dir(place.path("r.unpublished-0123")).unwrap();
    fs::create_dir(place.path("other")).unwrap();
    for asked in ["", "r"] {
        let lines = leftovers(&place.path(asked));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with(folder.to_str().unwrap()) && lines[1].contains("r.unpublished-0123 is a finished")
        );
    }
    assert_eq!(leftovers(&place.path("other")), Vec::<String>::new(), "those of another output directory");
}

/// What is published over what, in which way.
fn scenes() -> Vec<(&'static str, Place)> {
    let vacant = Place::new();
    let empty = Place::new();
    fs::create_dir(empty.path("r")).unwrap();
    let earlier = Place::new();
    earlier.run("1", &[("a", "first"), ("gone", "first"), ("p/00000", "first"), ("q/00000", "first")], false).unwrap();
    let mixed = Place::new();
    mixed.run("1", &[("a", "first"), ("gone", "first"), ("p/00000", "first"), ("q/00000", "first")], false).unwrap();
    mixed.put("r/notes", "mine");
    mixed.put("r/q/notes", "mine");
    mixed.put("r/b", "mine");
    vec![("vacant", vacant), ("empty", empty), ("earlier", earlier), ("mixed", mixed)]
}

/// Kills the run before each of its file operations in turn. Whatever it leaves, the next run of that directory finds
/// all of the earlier result or all of the new one, and files of others are there all the time.
#[test]
fn a_run_that_is_killed_while_publishing_is_completed_or_undone() {
    let outputs = [("a", "second"), ("b", "second"), ("p/00000", "second"), ("p/00001", "second")];
    for scene in 0..scenes().len() {
        let mut completed = 0;
        for operations in 0.. {
            assert!(operations < 100, "publishing takes ever more operations");
            let (name, place) = scenes().swap_remove(scene);
            let before = place.files();
            let staging = place.staged(place.target("1", &outputs, true).unwrap(), &outputs);
            let mut staging = staging.unwrap_or_else(|error| panic!("{name}: {error}"));
            staging.disk.left = Some(Cell::new(operations));
            let result = staging.publish();
            let all: String = place.all().into_values().collect::<Vec<_>>().join("\n");
            for (file, text) in &before {
                let given_up = ["r/b"].contains(&file.as_str());
                assert!(text != "mine" || given_up || place.files().get(file) == Some(text), "{name}: {file} is lost");
            }
            assert!(all.contains("second"), "{name}: the new result is lost after {operations} operations");
            // The next run of this directory, which goes no further than its checks.
            place.target("1", &outputs, true).unwrap().check().unwrap();
            let after = place.files();
            let is_new =
                outputs.iter().all(|(file, text)| after.get(&format!("r/{file}")).is_some_and(|it| it == text));
            let is_old = before.iter().all(|(file, text)| after.get(file) == Some(text));
            assert!(is_new || is_old, "{name}, {operations} operations: {after:#?}");
            if is_new {
                completed += 1;
                assert!(!after.contains_key("r/gone") && !after.contains_key("r/q/00000"), "{name}: {after:#?}");
            }
            if name == "mixed" {
                assert_eq!((&after["r/notes"][..], &after["r/q/notes"][..]), ("mine", "mine"));
            }
            if !before.is_empty() || result.is_err() {
                assert!(
                    is_new
                        || after.values().filter(|text| *text == "second").count() == 0
                        || after.keys().any(|file| file.contains("unpublished")),
                    "{name}: a mixture: {after:#?}"
                );
            }
            if result.is_ok() && place.hidden().is_empty() && operations > 20 {
                break;
            }
        }
        assert!(completed > 3, "no run that was killed was completed");
    }
}

#[test]
fn a_kill_during_recovery_loses_nothing_either() {
    let outputs = [("a", "second"), ("b", "second")];
    for first in 3..12 {
        for second in 0..12 {
            let place = Place::new();
            place.run("1", &[("a", "first"), ("c", "first")], false).unwrap();
            place.put("r/notes", "mine");
            let target = place.target("1", &outputs, true).unwrap();
            let mut staging = place.staged(target, &outputs).unwrap();
            let folder = staging.folder.clone();
            staging.disk.left = Some(Cell::new(first));
            let _ = staging.publish();
            let disk = disk::Disk { left: Some(Cell::new(second)) };
            if let Some(journal) = publish::Journal::read(&folder)
                && journal.is_pending(&folder)
            {
                let _ = publish::forward(&disk, &folder, &place.path("r"), &journal);
            }
            place.target("1", &outputs, true).unwrap().check().unwrap();
            let after = place.files();
            assert_eq!(after["r/notes"], "mine");
            let (a, b, c) = (&after["r/a"], after.get("r/b"), after.get("r/c"));
            let is_new = a == "second" && b.is_some() && c.is_none();
            let is_old = a == "first" && b.is_none() && c.is_some();
            assert!(is_new || is_old, "{first}, {second}: {after:#?}");
        }
    }
}

#[test]
fn a_file_that_appears_after_the_kill_keeps_its_place() {
    let outputs = [("a", "second"), ("b", "second")];
    let place = Place::new();
    place.put("r/notes", "mine");
    let mut staging = place.staged(place.target("1", &outputs, true).unwrap(), &outputs).unwrap();
    // The manifest, the journal, and the first of two moves.
    staging.disk.left = Some(Cell::new(3));
    let _ = staging.publish();
    assert_eq!(place.files().get("r/a").map(String::as_str), Some("second"));
    place.put("r/b", "mine");
    let notes = place.target("1", &outputs, true).unwrap().check().unwrap();
    assert!(notes[0].contains("cannot be published") && notes[0].contains("unpublished"), "{notes:?}");
    let after = place.files();
    assert_eq!((&after["r/b"][..], after.get("r/a")), ("mine", None));
    assert_eq!(after.values().filter(|text| *text == "second").count(), 2, "{after:#?}");
}

/// What users and runs do to a directory of output directories.
#[derive(Clone, Debug)]
enum Deed {
    Run { folder: u8, call: u8, outputs: u8, overwrite: bool, killed_after: Option<u8> },
    Put { folder: u8, file: u8 },
    Move { from: u8, to: u8 },
    Copy { from: u8, to: u8 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let killed = proptest::option::of(0u8..25);
    prop_oneof![
        4 => (0u8..3, 0u8..2, 1u8..16, any::<bool>(), killed).prop_map(
            |(folder, call, outputs, overwrite, killed_after)| Deed::Run { folder, call, outputs, overwrite, killed_after }
        ),
        2 => (0u8..3, 0u8..6).prop_map(|(folder, file)| Deed::Put { folder, file }),
        1 => (0u8..3, 0u8..3).prop_map(|(from, to)| Deed::Move { from, to }),
        1 => (0u8..3, 0u8..3).prop_map(|(from, to)| Deed::Copy { from, to }),
    ]
}

const FOLDERS: [&str; 3] = ["r", "s", ".r.bak"];
const FILES: [&str; 6] = ["a", "b", "p/00000", "p/00001", "notes", "p/notes"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// No sequence of runs, kills, renames and copies loses a file that a user has written, unless an output with its
    /// name took its place with `--overwrite`; and after a run that says that it has published, its result is there.
    #[test]
    fn nothing_is_lost_that_is_not_given_up(deeds in proptest::collection::vec(deed(), 1..14)) {
        let place = Place::new();
        // The texts of users' files, each only once.
        let mut precious: Vec<String> = Vec::new();
        let mut number = 0;
        for deed in deeds {
            number += 1;
            match deed {
                Deed::Run { folder, call, outputs, overwrite, killed_after } => {
                    let text = format!("result {number}");
                    let outputs: Vec<(&str, &str)> = (0..4)
                        .filter(|bit| outputs & (1 << bit) != 0)
                        .map(|bit| (FILES[bit], text.as_str()))
                        .collect();
                    let folder = FOLDERS[usize::from(folder)];
                    let call = call.to_string();
                    let Ok(target) = place.target_at(folder, &call, &outputs, overwrite) else { continue };
                    let Ok(mut staging) = place.staged(target, &outputs) else { continue };
                    staging.disk.left = killed_after.map(|left| Cell::new(u32::from(left)));
                    if overwrite {
                        let there = place.files();
                        let names = outputs.iter().filter_map(|(name, _)| there.get(&format!("{folder}/{name}")));
                        let given_up: Vec<&String> = names.collect();
                        precious.retain(|text| !given_up.contains(&text));
                    }
                    let published = staging.publish().is_ok();
                    let all = place.all();
                    let count = all.values().filter(|it| **it == text).count();
                    prop_assert!(count >= outputs.len(), "the result of a run that had finished is lost: {all:#?}");
                    if published {
                        let files = place.files();
                        for (name, text) in &outputs {
                            prop_assert_eq!(files.get(&format!("{folder}/{name}")).map(String::as_str), Some(*text));
                        }
                    }
                }
                Deed::Put { folder, file } => {
                    let path = format!("{}/{}", FOLDERS[usize::from(folder)], FILES[usize::from(file)]);
                    let there = place.files();
                    let blocked = place.path(&path).is_dir()
                        || place.path(&path).ancestors().skip(1).any(|above| above.is_file());
                    if blocked {
                        continue;
                    }
                    // A user who writes over a file gives that one up.
                    if let Some(old) = there.get(&path) {
                        precious.retain(|text| text != old);
                    }
                    let text = format!("mine {number}");
                    place.put(&path, &text);
                    precious.push(text);
                }
                Deed::Move { from, to } => {
                    let (from, to) = (place.path(FOLDERS[usize::from(from)]), place.path(FOLDERS[usize::from(to)]));
                    if from.exists() && !to.exists() {
                        fs::rename(from, to).unwrap();
                    }
                }
                Deed::Copy { from, to } => {
                    let (from, to) = (place.path(FOLDERS[usize::from(from)]), place.path(FOLDERS[usize::from(to)]));
                    if from.exists() && !to.exists() {
                        let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
                        prop_assert!(copied.unwrap().success());
                    }
                }
            }
            let all: Vec<String> = place.all().into_values().collect();
            for text in &precious {
                prop_assert!(all.contains(text), "{} is lost: {:#?}", text, place.all());
            }
        }
        // Whatever was killed is settled by runs that only look.
        for folder in FOLDERS {
            if let Ok(target) = place.target_at(folder, "0", &[], false) {
                let _ = target.check();
            }
        }
        let files = place.files();
        for text in &precious {
            prop_assert!(files.values().any(|it| it == text), "{} is hidden: {:#?}", text, place.all());
        }
    }
}
