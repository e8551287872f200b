use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::own::CertificateContent;
use crate::{Kind, ResourceId, Spec};

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

fn id(name: &str) -> ResourceId {
    ResourceId::new(Kind::Service, "default", name)
}

/// A directory with files, looked at without a watcher.
struct Files {
    dir: tempfile::TempDir,
    store: Store,
}

impl Files {
    fn new(files: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(vec![dir.path().to_owned()]);
        let mut this = Self { dir, store };
        files.iter().for_each(|(name, text)| fs::write(this.at(name), text).unwrap());
        this.store.look(Look::Start, &Seen::default);
        this
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As if somebody had written the file and closed it.
    fn write(&mut self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.at(name), text).unwrap();
        self.changed(name);
    }

    fn changed(&mut self, name: &str) -> bool {
        self.store
            .look(Look::Events(Seen { changed: vec![self.at(name)], ..Seen::default() }), &Seen::default)
    }

    fn remove(&mut self, name: &str) {
        fs::remove_file(self.at(name)).unwrap();
        assert!(self.changed(name), "another look is due");
        assert!(!self.store.look(Look::Events(Seen::default()), &Seen::default));
    }

    fn port(&self, name: &str) -> Option<u16> {
        let resource = self.store.set().get(&id(name))?;
        let Spec::Service(spec) = &resource.spec else { panic!("a service") };
        Some(spec.ports[0].port.get())
    }

    fn arc(&self, name: &str) -> Arc<Resource> {
        self.store.set().get(&id(name)).unwrap().clone()
    }

    fn errors(&self) -> Vec<String> {
        let base = format!("{}/", self.dir.path().display());
        self.store.errors().iter().map(|error| error.to_string().replace(&base, "")).collect()
    }
}

#[test]
fn files_of_a_directory_are_those_that_kubectl_takes() {
    let mut files = Files::new(&[
        ("b.yaml", service("b", 1)),
        ("a.yml", service("a", 1)),
        ("c.json", "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"c\"}, \"spec\": {\"ports\": [{\"port\": 1}]}}".to_owned()),
        (".hidden.yaml", service("h", 1)),
        ("d.txt", service("d", 1)),
        ("e.yaml~", service("e", 1)),
    ]);
    fs::create_dir(files.at("sub.yaml")).unwrap();
    fs::write(files.at("sub.yaml/f.yaml"), service("f", 1)).unwrap();
    std::os::unix::fs::symlink("nowhere", files.at("g.yaml")).unwrap();
    files.changed("g.yaml");
    let names: Vec<_> = files.store.set().iter().map(|resource| resource.id.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(files.errors(), Vec::<String>::new());
}

#[test]
fn what_does_not_change_is_the_very_same() {
    let mut files =
        Files::new(&[("a.yaml", service("a", 1) + &service("b", 1)), ("c.yaml", service("c", 1))]);
    let (a, c, set) = (files.arc("a"), files.arc("c"), files.store.set().clone());
    files.write("a.yaml", format!("# a line more\n{}{}", service("a", 1), service("b", 2)));
    assert!(Arc::ptr_eq(&files.arc("a"), &a) && Arc::ptr_eq(&files.arc("c"), &c));
    assert_eq!(files.port("b"), Some(2));
    assert!(!Arc::ptr_eq(files.store.set(), &set));
    assert_eq!(files.store.source_in(&a).line, 3, "it stands elsewhere now");
    // Written otherwise, saying the same.
    let set = files.store.set().clone();
    files.write(
        "a.yaml",
        service("b", 2) + &service("a", 1).replace("{ports: [{port: 1}]}", "\n  ports:\n  - {port: 1}"),
    );
    assert!(Arc::ptr_eq(files.store.set(), &set));
}

#[test]
fn the_last_good_version_of_a_resource_stays() {
    let mut files = Files::new(&[("a.yaml", service("a", 1) + &service("b", 1))]);
    let a = files.arc("a");
    files.write("a.yaml", service("a", 0) + &service("b", 2) + &service("c", 3));
    assert_eq!((files.port("a"), files.port("b"), files.port("c")), (Some(1), Some(2), Some(3)));
    assert!(Arc::ptr_eq(&files.arc("a"), &a));
    assert_eq!(
        files.errors(),
        [
            "a.yaml:5:23: Service default/a: spec.ports[0].port: 0 is no port: from 1 to 65535 [resource-invalid-value]"
        ]
    );
    // Broken in another way, and still the last good one; the others go on.
    files.write("a.yaml", "---\nkind: [\n".to_owned() + &service("c", 4));
    assert_eq!((files.port("a"), files.port("b"), files.port("c")), (Some(1), Some(2), Some(4)));
    files.write("a.yaml", service("a", 5));
    assert_eq!((files.port("a"), files.port("b"), files.port("c")), (Some(5), None, None));
    assert!(files.errors().is_empty());
    for broken in [&b"\xff\xfe"[..], &vec![b' '; usize::try_from(crate::MAX_FILE).unwrap() + 1]] {
        files.write("a.yaml", broken);
        assert_eq!(files.port("a"), Some(5));
        assert_eq!(files.errors().len(), 1);
    }
    files.write("a.yaml", "");
    assert_eq!((files.port("a"), files.errors().len()), (None, 0));
}

#[test]
fn a_resource_that_was_never_good_is_not_there() {
    let files = Files::new(&[("a.yaml", service("a", 0) + &service("b", 1))]);
    assert_eq!((files.port("a"), files.port("b")), (None, Some(1)));
}

#[test]
fn of_two_definitions_the_first_file_holds() {
    let mut files = Files::new(&[
        ("a.yaml", service("x", 1)),
        ("b.yaml", service("x", 2)),
        ("c.yaml", service("y", 1) + &service("y", 2)),
    ]);
    let dir = files.dir.path().display().to_string();
    assert_eq!((files.port("x"), files.port("y")), (Some(1), Some(1)));
    assert_eq!(
        files.errors(),
        [
            "b.yaml:2:1: Service default/x: this resource is defined at a.yaml:2 already, and that one holds; keep one [resource-duplicate]".to_string(),
            "c.yaml:7:1: Service default/y: this resource is defined at c.yaml:2 already, and that one holds; keep one [resource-duplicate]".to_string(),
        ],
        "{dir}"
    );
    files.remove("a.yaml");
    assert_eq!(files.port("x"), Some(2));
    // What a file says now holds before what another said once.
    files.write("b.yaml", service("x", 0));
    files.write("d.yaml", service("x", 4));
    assert_eq!(files.port("x"), Some(4));
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let mut files = Files::new(&[("a.yaml", service("a", 1) + &service("b", 1))]);
    let path = files.at("a.yaml");
    // An editor moves the file away and begins a new one.
    fs::rename(&path, files.at("a.yaml~")).unwrap();
    fs::write(&path, service("a", 2)).unwrap();
    files.store.look(
        Look::Events(Seen { changed: vec![path.clone()], begun: vec![path], all: false }),
        &Seen::default,
    );
    assert_eq!((files.port("a"), files.port("b")), (Some(1), Some(1)));
    // Something else happens meanwhile.
    files.write("c.yaml", service("c", 1));
    files.store.look(Look::Poll, &Seen::default);
    assert_eq!((files.port("a"), files.port("b")), (Some(1), Some(1)));
    // It is cut short in place, and not closed.
    fs::write(files.at("c.yaml"), "").unwrap();
    files.changed("d.yaml");
    assert_eq!(files.port("c"), Some(1));
    files.changed("a.yaml");
    assert_eq!((files.port("a"), files.port("b")), (Some(2), None));
}

#[test]
fn a_file_that_is_gone_for_a_moment_is_not_gone() {
    let mut files = Files::new(&[("a.yaml", service("a", 1)), ("b.yaml", service("a", 2))]);
    let a = files.arc("a");
    let path = files.at("a.yaml");
    fs::remove_file(&path).unwrap();
    assert!(files.changed("a.yaml"));
    assert!(Arc::ptr_eq(&files.arc("a"), &a), "it holds before b.yaml still");
    fs::write(&path, service("a", 3)).unwrap();
    assert!(!files.changed("a.yaml"));
    assert_eq!(files.port("a"), Some(3));
    files.remove("a.yaml");
    assert_eq!(files.port("a"), Some(2));
}

#[test]
fn a_path_that_is_missing_is_told_and_read_when_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (file, sub) = (dir.path().join("x/one.conf"), dir.path().join("sub"));
    let mut store = Store::new(vec![file.clone(), sub.clone()]);
    store.look(Look::Start, &Seen::default);
    assert_eq!(store.errors().len(), 2);
    assert!(store.errors()[0].to_string().ends_with("x/one.conf: there is no such file or directory; what was read of it before stays in force; it is read as soon as it is there [resource-unreadable]"));
    assert!(store.directories().contains(&dir.path().to_owned()));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::create_dir(&sub).unwrap();
    fs::write(&file, service("a", 1)).unwrap();
    fs::write(sub.join("b.yaml"), service("b", 1)).unwrap();
    store.look(Look::Events(Seen { all: true, ..Seen::default() }), &Seen::default);
    assert_eq!((store.set().len(), store.errors().len()), (2, 0));
    assert!(store.directories().contains(&sub) && store.directories().contains(&dir.path().join("x")));
}

#[test]
fn what_the_configuration_names_and_is_away_stays_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (file, sub) = (dir.path().join("one.yaml"), dir.path().join("sub"));
    fs::write(&file, service("a", 1)).unwrap();
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("b.yaml"), service("b", 1)).unwrap();
    let mut store = Store::new(vec![file.clone(), sub.clone()]);
    store.look(Look::Start, &Seen::default);
    let before = store.set().clone();
    let away = dir.path().join("away");
    fs::rename(&sub, &away).unwrap();
    fs::rename(&file, dir.path().join("other")).unwrap();
    let everything = || Look::Events(Seen { all: true, ..Seen::default() });
    for _ in 0..3 {
        store.look(everything(), &Seen::default);
        assert!(Arc::ptr_eq(&before, store.set()));
        assert_eq!(store.errors().len(), 2);
    }
    // What is there says what there is.
    fs::remove_file(away.join("b.yaml")).unwrap();
    fs::write(away.join("c.yaml"), service("c", 1)).unwrap();
    fs::rename(&away, &sub).unwrap();
    for _ in 0..2 {
        store.look(everything(), &Seen::default);
    }
    let there = ["a", "b", "c"].map(|name| store.set().get(&id(name)).is_some());
    assert_eq!((there, store.errors().len()), ([true, false, true], 1));
}

#[test]
fn a_file_that_is_opened_anew_before_it_was_read_is_read_when_it_is_closed() {
    let files = Files::new(&[("a.yaml", service("a", 1))]);
    let path = files.at("a.yaml");
    let mut store = Store::new(vec![files.dir.path().to_owned()]);
    store.look(Look::Start, &Seen::default);
    let closed = || Look::Events(Seen { changed: vec![path.clone()], ..Seen::default() });
    // Half of it is there when it is read, and that another writer has it is told meanwhile.
    fs::write(&path, "").unwrap();
    let late = || Seen { begun: vec![path.clone()], ..Seen::default() };
    assert!(store.look(closed(), &late), "another look is due");
    assert_eq!(store.set().len(), 1);
    assert!(!store.look(Look::Events(Seen::default()), &Seen::default));
    assert_eq!(store.set().len(), 1);
    fs::write(&path, service("b", 2)).unwrap();
    store.look(closed(), &Seen::default);
    assert!(store.set().get(&id("b")).is_some() && store.set().len() == 1);
}

#[tokio::test]
async fn a_writer_who_takes_his_time_takes_nothing_out_of_force() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, service("a", 1) + "---\n" + &service("b", 1)).unwrap();
    let (handle, task) = watched(dir.path());
    let version = handle.subscribe();
    until(&handle, "b", Some(1)).await;
    for round in 2..40 {
        // Closed, and opened again at once.
        fs::write(&path, service("a", 1) + "---\n" + &service("b", round)).unwrap();
        let mut writer = fs::File::create(&path).unwrap();
        for piece in (service("a", 1) + "---\n" + &service("b", round)).as_bytes().chunks(24) {
            writer.write_all(piece).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(handle.load().len(), 2, "round {round}");
        }
        drop(writer);
        until(&handle, "b", Some(round)).await;
    }
    assert!(handle.errors().is_empty() && version.has_changed().unwrap());
    task.abort();
}

#[tokio::test]
async fn the_watcher_sees_a_file_behind_a_link_written_in_place() {
    let (dir, real) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = real.path().join("real.txt");
    fs::write(&file, service("a", 1)).unwrap();
    std::os::unix::fs::symlink(&file, dir.path().join("a.yaml")).unwrap();
    let (handle, task) = watched(dir.path());
    until(&handle, "a", Some(1)).await;
    for port in 2..5 {
        fs::write(&file, service("a", port)).unwrap();
        until(&handle, "a", Some(port)).await;
    }
    task.abort();
}

#[test]
fn what_is_no_file_does_not_hold_the_reader_up() {
    let files = Files::new(&[("a.yaml", service("a", 1))]);
    rustix::fs::mkfifoat(rustix::fs::CWD, files.at("b.yaml"), rustix::fs::Mode::RUSR).unwrap();
    let mut store = Store::new(vec![files.dir.path().to_owned()]);
    store.look(Look::Start, &Seen::default);
    assert_eq!((store.set().len(), store.errors().len()), (1, 1));
}

/// A certificate for a name, with its key, both PEM.
fn pair(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_certificate_has_the_content_of_its_files_and_the_last_good_one_stays() {
    let (chain, key) = pair("a");
    let text = "apiVersion: weft.dev/v1alpha1\nkind: Certificate\nmetadata: {name: c}\nspec: {certificateFile: c.pem, keyFile: k.pem, caFile: c.pem}\n";
    let mut files = Files::new(&[("c.pem", chain.clone()), ("k.pem", key), ("r.yaml", text.to_owned())]);
    let content = |files: &Files| -> (Arc<Resource>, CertificateContent) {
        let resource = files.store.set().find(Kind::Certificate, "default", "c").unwrap();
        let Spec::Certificate(spec) = &resource.spec else { panic!("a certificate") };
        (resource.clone(), spec.content.clone())
    };
    let (first, now) = content(&files);
    assert_eq!(now.pair.as_ref().map(|pair| pair.chain.clone()), Some(chain.clone().into_bytes()));
    assert_eq!(now.roots.as_deref(), Some(chain.as_bytes()));
    assert!(!format!("{first:?}").contains("BEGIN"), "content is not printed");
    assert!(files.store.directories().contains(&files.dir.path().to_owned()));

    // Half of a rotation: the chain is new, the key is not.
    let (new_chain, new_key) = pair("b");
    files.write("c.pem", &new_chain);
    assert!(Arc::ptr_eq(&content(&files).0, &first));
    let errors = files.errors();
    assert!(errors.len() == 1 && errors[0].contains("r.yaml:1:1: Certificate default/c: spec.certificateFile: c.pem: the private key is not that of the first certificate [resource-certificate]"), "{errors:?}");
    files.write("k.pem", &new_key);
    let (second, now) = content(&files);
    assert_eq!(now.pair.as_ref().map(|pair| pair.key.clone()), Some(new_key.clone().into_bytes()));
    assert!(files.errors().is_empty() && first.hash != second.hash);

    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        files.write("c.pem", broken);
        assert!(Arc::ptr_eq(&content(&files).0, &second));
        assert!(!files.errors().is_empty());
    }
    fs::remove_file(files.at("k.pem")).unwrap();
    files.changed("k.pem");
    assert!(Arc::ptr_eq(&content(&files).0, &second));
    assert!(
        files.errors().iter().any(|error| error.contains("spec.keyFile: k.pem: the file cannot be read"))
    );
    files.write("c.pem", &new_chain);
    files.write("k.pem", &new_key);
    assert!(Arc::ptr_eq(&content(&files).0, &second), "the same content is the same resource");
    files.write("r.yaml", "");
    assert_eq!((files.store.set().len(), files.errors().len()), (0, 0));
}

/// Waits for a set in which a service has this port. Far below [`POLL`], so that this fails where no event was seen.
async fn until(handle: &Arc<ResourceHandle>, name: &str, port: Option<u16>) {
    let has = || {
        let set = handle.load();
        let found = set.get(&id(name)).map(|resource| match &resource.spec {
            Spec::Service(spec) => spec.ports[0].port.get(),
            _ => panic!("a service"),
        });
        found == port
    };
    let mut versions = handle.subscribe();
    let seen = versions.wait_for(|_| has());
    tokio::time::timeout(Duration::from_secs(8), seen).await.expect("the change is seen").unwrap();
}

fn watched(path: &Path) -> (Arc<ResourceHandle>, tokio::task::JoinHandle<()>) {
    let (handle, task) = watch(vec![path.to_owned()]);
    (handle, tokio::spawn(task))
}

#[tokio::test]
async fn the_watcher_sees_files_come_change_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, task) = watched(dir.path());
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a.yaml"), service("a", 1)).unwrap();
    until(&handle, "a", Some(1)).await;
    fs::write(at("a.yaml"), service("a", 2)).unwrap();
    until(&handle, "a", Some(2)).await;
    fs::write(at("new"), service("a", 3)).unwrap();
    fs::rename(at("new"), at("a.yaml")).unwrap();
    until(&handle, "a", Some(3)).await;
    fs::remove_file(at("a.yaml")).unwrap();
    until(&handle, "a", None).await;
    std::os::unix::fs::symlink("other/b.yaml", at("b.yaml")).unwrap();
    fs::create_dir(at("other")).unwrap();
    fs::write(at("other/b.yaml"), service("b", 1)).unwrap();
    fs::write(at("poke.yaml"), "").unwrap();
    until(&handle, "b", Some(1)).await;
    fs::write(at("other/b.yaml"), service("b", 2)).unwrap();
    until(&handle, "b", Some(2)).await;
    task.abort();
}

/// kubelet's way (pkg/volume/util/atomic_writer.go): a new directory, a new symlink, renamed over `..data`.
#[tokio::test]
async fn the_watcher_sees_a_config_map_swap() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |name: &str, text: &str| {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("r.yaml"), text).unwrap();
        std::os::unix::fs::symlink(name, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    version("..1", &service("a", 1));
    std::os::unix::fs::symlink("..data/r.yaml", at("r.yaml")).unwrap();
    for path in [dir.path().to_owned(), at("r.yaml")] {
        let (handle, task) = watched(&path);
        until(&handle, "a", Some(1)).await;
        version("..2", &service("a", 2));
        fs::remove_dir_all(at("..1")).unwrap();
        until(&handle, "a", Some(2)).await;
        version("..1", &service("a", 1));
        fs::remove_dir_all(at("..2")).unwrap();
        until(&handle, "a", Some(1)).await;
        task.abort();
    }
}

#[tokio::test]
async fn the_watcher_sees_a_directory_that_comes_later_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/routes");
    let (handle, task) = watched(&path);
    assert_eq!(handle.errors().len(), 1);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("a.yaml"), service("a", 1)).unwrap();
    until(&handle, "a", Some(1)).await;
    let other = dir.path().join("deep/other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.yaml"), service("a", 2)).unwrap();
    fs::rename(&path, dir.path().join("deep/old")).unwrap();
    fs::rename(&other, &path).unwrap();
    until(&handle, "a", Some(2)).await;
    fs::write(path.join("a.yaml"), service("a", 3)).unwrap();
    until(&handle, "a", Some(3)).await;
    task.abort();
}

#[tokio::test]
async fn mistakes_are_listed_while_they_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, service("a", 1)).unwrap();
    let (handle, task) = watched(&path);
    fs::write(&path, service("a", 0) + &service("b", 1)).unwrap();
    until(&handle, "b", Some(1)).await;
    until(&handle, "a", Some(1)).await;
    assert_eq!((handle.errors().len(), handle.refused()), (1, 1));
    fs::write(&path, service("a", 2)).unwrap();
    until(&handle, "a", Some(2)).await;
    assert!(handle.errors().is_empty());
    task.abort();
}

#[tokio::test]
async fn the_task_ends_with_its_handle() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, task) = watched(dir.path());
    drop(handle);
    tokio::time::timeout(POLL * 2, task).await.expect("ends").unwrap();
}
