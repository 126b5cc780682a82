use crate::{alone, files, in_dir, write};
use std::fs;

#[test]
fn a_reload_reads_the_files_again_and_leaves_the_old_configuration_as_it_is() {
    let dir = files(&[("default.toml", "[service]\nzone = \"a\"\n[orders]\nlimit = 1")]);
    let old = in_dir(&dir, "prod").code("[service]\nregion = \"r\"").build().unwrap();
    write(dir.path(), "default.toml", b"[service]\nzone = \"b\"\nregion = \"no\"\n[orders]\nlimit = 2");
    write(dir.path(), "prod.toml", b"[service]\nweight = 7");
    let new = old.reload().unwrap();
    assert_eq!((old.service().zone.as_deref(), new.service().zone.as_deref()), (Some("a"), Some("b")));
    assert_eq!((new.service().region.as_deref(), new.service().weight), (Some("r"), 7));
    assert_eq!(new.origin("service.weight").to_string(), format!("{}/prod.toml:2:1", dir.path().display()));
    // What code sets over it has not changed.
    assert_eq!(old.changed_keys(&new), ["orders.limit", "service.weight", "service.zone"]);
    assert!(
        old.changed_keys(&old.reload().unwrap()).len() == 3
            && new.changed_keys(&new.reload().unwrap()).is_empty()
    );
}

#[test]
fn a_mistake_in_a_changed_file_is_told_with_its_place() {
    let dir = files(&[("default.toml", "[service]\nzone = \"a\"")]);
    let config = in_dir(&dir, "prod").build().unwrap();
    write(dir.path(), "default.toml", b"[service]\n\nznoe = \"b\"");
    let error = config.reload().unwrap_err();
    assert_eq!(
        (error.key(), error.line(), error.hint()),
        ("service.znoe", Some(3), Some("did you mean `zone`?"))
    );
    write(dir.path(), "default.toml", b"[sevice]\nzone = \"b\"");
    assert_eq!(config.reload().unwrap_err().hint(), Some("did you mean `service`?"));
}

#[test]
fn a_section_that_was_read_is_no_misspelt_one_of_ours() {
    let dir = files(&[("default.toml", "[drains]\nnumber = 1")]);
    let config = in_dir(&dir, "prod").build().unwrap();
    assert!(config.reload().is_err());
    assert!(config.is_read("drain.settle") && !config.is_read("drains.number"));
    let _read: std::collections::BTreeMap<String, u8> = config.section("drains").unwrap();
    assert!(config.reload().unwrap().is_read("drains.number"));
}

#[test]
fn a_file_that_is_gone_or_emptied_is_a_mistake_and_one_comment_is_none() {
    let dir = files(&[("default.toml", "[service]\nzone = \"a\""), ("prod.toml", "")]);
    let config = in_dir(&dir, "prod").build().unwrap();
    let said = || config.reload().unwrap_err().to_string();
    fs::remove_file(dir.path().join("default.toml")).unwrap();
    assert!(said().contains("default.toml` is gone, and was not") && said().contains("leave a comment"));
    // As an editor or a full disk leaves it.
    write(dir.path(), "default.toml", b"");
    assert!(said().contains("default.toml` is empty, and was not"), "{}", said());
    write(dir.path(), "default.toml", b"# nothing");
    assert_eq!(config.changed_keys(&config.reload().unwrap()), ["service.zone"]);
}

#[test]
fn tables_are_compared_key_by_key_and_lists_as_a_whole() {
    let read = |text: &str| alone().code(text).build().unwrap();
    let changed = |old: &str, new: &str| read(old).changed_keys(&read(new));
    assert!(changed("[a]\nx = 1\ny = [1, 2]", "[a]\ny = [1, 2]\nx = 1").is_empty());
    assert_eq!(changed("[a]\ny = [1, 2]", "[a]\ny = [1, 3]"), ["a.y"]);
    assert_eq!(changed("[a.b]\nx = 1\ny = 2", "[a]"), ["a.b.x", "a.b.y"]);
    assert_eq!(changed("[a]\nx = 1", "[a.x]\ny = 1"), ["a.x"]);
    assert_eq!(changed("", "[a]"), ["a"]);
    assert_eq!(changed("[a]\n\"core-*\" = \"x\"", "[a]\n\"core-*\" = \"y\""), ["a.\"core-*\""]);
}

#[test]
fn stamps_tell_every_way_in_which_a_file_changes() {
    let dir = files(&[("default.toml", "[service]\nzone = \"a\"")]);
    let config = in_dir(&dir, "prod").build().unwrap();
    let first = config.stamps().clone();
    assert!(!first.is_empty() && first == first.again());
    // The same length.
    write(dir.path(), "default.toml", b"[service]\nzone = \"b\"");
    let second = first.again();
    assert_ne!(first, second);
    // Another file under the same name, as editors and Kubernetes do it.
    write(dir.path(), "new", b"[service]\nzone = \"b\"");
    fs::rename(dir.path().join("new"), dir.path().join("default.toml")).unwrap();
    let third = second.again();
    assert_ne!(second, third);
    // One that was not there, and one that goes.
    write(dir.path(), "prod.toml", b"");
    let fourth = third.again();
    assert_ne!(third, fourth);
    fs::remove_file(dir.path().join("prod.toml")).unwrap();
    assert_eq!(third, fourth.again());
    assert!(alone().build().unwrap().stamps().is_empty());
}
