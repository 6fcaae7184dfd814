//! Pulling models from a server on this machine that speaks the Hub's HTTP. Nothing here reaches a real network.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use impasto::progress::{Progress, Stage, silent};
use impasto::weights::verify::Verdict;
use impasto::weights::{Cache, Hub, Manifest};
use impasto::{Error, Result};
use sha2::{Digest, Sha256};

const REPO: &str = "painter/brush";
const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How the server misbehaves.
#[derive(Default, Clone)]
struct Mood {
    /// The connection breaks after so many bytes of a large file, so many times.
    breaks: Vec<usize>,
    /// Every answer is this status.
    status: Option<(u16, &'static str)>,
    /// Ranges are ignored: every transfer starts from the beginning.
    no_ranges: bool,
    /// The bytes of large files differ from what the hash says.
    altered: bool,
    /// What `main` is now.
    commit: Option<&'static str>,
    /// Small and large files have to be asked for with this token.
    token: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
struct Request {
    method: String,
    path: String,
    host: String,
    range: Option<String>,
    authorization: Option<String>,
    sent: usize,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    mood: Mood,
    log: Vec<Request>,
    storage: u16,
}

/// A Hub on 127.0.0.1, and beside it, on another port, the storage it redirects large files to.
struct Server {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Server {
    fn new() -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let storage = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, storage_port) = (hub.local_addr().unwrap().port(), storage.local_addr().unwrap().port());
        let large: Vec<u8> = (0..900_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let files = BTreeMap::from([
            ("config.json".to_owned(), b"{\"size\": 3}\n".to_vec()),
            ("unet/net.safetensors".to_owned(), large),
        ]);
        let state =
            Arc::new(Mutex::new(State { files, mood: Mood::default(), log: Vec::new(), storage: storage_port }));
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let state = Arc::clone(&state);
            // Ends with the test binary.
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || {
                        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
                        let _ = answer(stream, &state, is_storage);
                    });
                }
            });
        }
        Self { state, port }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn mood(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// The requests since the last call.
    fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn large(&self) -> Vec<u8> {
        self.state.lock().unwrap().files["unet/net.safetensors"].clone()
    }

    fn hub(&self, folder: &Path) -> Hub {
        Hub::new(self.endpoint(), Cache::new(folder)).with_pause(Duration::from_millis(1))
    }
}

/// One request, one answer, connection closed.
fn answer(stream: TcpStream, state: &Mutex<State>, is_storage: bool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let mut request = Request {
        method,
        path,
        host: if is_storage { "storage" } else { "hub" }.to_owned(),
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
        sent: 0,
    };
    let mut state = state.lock().unwrap();
    let (head, body, limit) = reply(&request, &mut state, is_storage);
    let body = if request.method == "HEAD" { Vec::new() } else { body };
    request.sent = body.len().min(limit);
    let sent = request.sent;
    state.log.push(request);
    drop(state);
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body[..sent])?;
    stream.flush()?;
    if sent < body.len() {
        stream.shutdown(std::net::Shutdown::Both)?;
    }
    Ok(())
}

/// Head, body, and after how many bytes of the body the connection breaks.
fn reply(request: &Request, state: &mut State, is_storage: bool) -> (String, Vec<u8>, usize) {
    let all = usize::MAX;
    let plain = |status: &str, extra: &str, body: Vec<u8>| {
        (format!("HTTP/1.1 {status}\r\nConnection: close\r\n{extra}Content-Length: {}\r\n\r\n", body.len()), body, all)
    };
    if let Some((status, code)) = state.mood.status {
        return plain(&format!("{status} Status"), &format!("X-Error-Code: {code}\r\n"), b"no".to_vec());
    }
    if is_storage {
        // As with signed links of real storage: a second authorization is refused.
        if request.authorization.is_some() {
            return plain("400 Bad Request", "", b"only one auth mechanism allowed".to_vec());
        }
        let name = request.path.trim_start_matches("/blob/").split('?').next().unwrap().to_owned();
        let mut bytes = state.files.get(&name).cloned().unwrap_or_default();
        if state.mood.altered {
            bytes[1000] ^= 1;
        }
        let start = match &request.range {
            Some(range) if !state.mood.no_ranges => {
                range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap()
            }
            _ => 0,
        };
        let limit = if state.mood.breaks.is_empty() { all } else { state.mood.breaks.remove(0) };
        let body = bytes[start..].to_vec();
        let (status, range) = if start > 0 {
            ("206 Partial Content", format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len()))
        } else {
            ("200 OK", String::new())
        };
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{range}Content-Length: {}\r\n\r\n", body.len());
        return (head, body, limit);
    }
    // A repository that was renamed redirects within the Hub.
    if let Some(rest) = request.path.strip_prefix("/old/name/") {
        return plain("307 Temporary Redirect", &format!("Location: /{REPO}/{rest}\r\n"), Vec::new());
    }
    if state.mood.token.is_some_and(|token| request.authorization != Some(format!("Bearer {token}"))) {
        return plain("401 Unauthorized", "X-Error-Code: GatedRepo\r\n", Vec::new());
    }
    let Some(rest) = request.path.strip_prefix(&format!("/{REPO}/resolve/")) else {
        return plain("404 Not Found", "X-Error-Code: RepoNotFound\r\n", Vec::new());
    };
    let (revision, name) = rest.split_once('/').unwrap();
    let commit = state.mood.commit.unwrap_or(FIRST);
    let commit = if revision == "main" { commit } else { revision };
    let Some(bytes) = state.files.get(name).cloned() else {
        return plain("404 Not Found", "X-Error-Code: EntryNotFound\r\n", Vec::new());
    };
    if !name.ends_with(".safetensors") {
        let (mut head, body, limit) =
            plain("200 OK", &format!("X-Repo-Commit: {commit}\r\nETag: \"abc{}\"\r\n", bytes.len()), bytes.clone());
        if request.method == "HEAD" {
            head = head.replace("Content-Length: 0", &format!("Content-Length: {}", bytes.len()));
        }
        return (head, body, limit);
    }
    let extra = format!(
        "X-Repo-Commit: {commit}\r\nETag: \"elsewhere\"\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\n\
         Location: http://127.0.0.1:{}/blob/{name}?signature=1\r\n",
        sha256(&bytes),
        bytes.len(),
        state.storage
    );
    plain("302 Found", &extra, Vec::new())
}

fn manifest(folder: &Path, changes: &[(&str, &str)]) -> Manifest {
    let mut text = format!(
        "summary = \"a brush\"\nkind = \"model\"\nrepo = \"{REPO}\"\nrevision = \"main\"\nlicence = \"none\"\n\
         [[file]]\npath = \"config.json\"\n[[file]]\npath = \"unet/net.safetensors\"\n"
    );
    for (old, new) in changes {
        assert!(text.contains(old));
        text = text.replace(old, new);
    }
    let path = folder.join("brush.toml");
    std::fs::write(&path, text).unwrap();
    Manifest::read(&path).unwrap()
}

struct Place {
    folder: tempfile::TempDir,
    server: Server,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), server: Server::new() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn hub(&self) -> Hub {
        self.server.hub(&self.cache())
    }

    fn manifest(&self) -> Manifest {
        manifest(self.folder.path(), &[])
    }

    fn incomplete(&self) -> PathBuf {
        let blob = format!("models--painter--brush/blobs/{}.incomplete", sha256(&self.server.large()));
        self.cache().join(blob)
    }
}

fn error(result: Result<PathBuf>) -> (String, String) {
    let error = result.unwrap_err();
    (error.to_string(), error.hint().unwrap_or_default().to_owned())
}

#[test]
fn a_pull_fills_the_shared_cache_and_a_second_one_asks_nobody() {
    let place = Place::new();
    let (hub, manifest) = (place.hub(), place.manifest());
    assert_eq!(manifest.locate(hub.cache()), None);

    let plan = hub.plan(&manifest, false).unwrap();
    assert_eq!((plan.files(), plan.bytes(), plan.commit()), (2, 900_012, FIRST));
    let mut seen = Vec::new();
    let root = hub
        .fetch(&plan, &mut |progress: &Progress| {
            seen.push(progress.clone());
            Ok(())
        })
        .unwrap();

    let repository = place.cache().join("models--painter--brush");
    assert_eq!(root, repository.join("snapshots").join(FIRST));
    assert_eq!(std::fs::read(root.join("unet/net.safetensors")).unwrap(), place.server.large());
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), FIRST);
    let blob = std::fs::canonicalize(root.join("unet/net.safetensors")).unwrap();
    assert!(blob.ends_with(format!("blobs/{}", sha256(&place.server.large()))));
    assert!(!place.incomplete().exists());
    let last = seen.iter().rfind(|progress| progress.stage == Stage::Download).unwrap();
    assert_eq!((last.done, last.total, last.label.as_str()), (900_000, 900_000, "unet/net.safetensors"));
    place.server.requests();

    assert_eq!(hub.pull(&manifest, &mut silent).unwrap(), root);
    assert_eq!(manifest.locate(hub.cache()), Some(root.clone()));
    assert_eq!(hub.clone().offline().pull(&manifest, &mut silent).unwrap(), root);
    assert_eq!(place.server.requests(), []);
}

#[test]
fn a_broken_connection_goes_on_where_it_stopped() {
    let place = Place::new();
    // Within one pull.
    place.server.mood(Mood { breaks: vec![300_000, 200_000], ..Mood::default() });
    let root = place.hub().pull(&place.manifest(), &mut silent).unwrap();
    assert_eq!(std::fs::read(root.join("unet/net.safetensors")).unwrap(), place.server.large());
    let transfers: Vec<_> = place.server.requests().into_iter().filter(|request| request.host == "storage").collect();
    let ranges: Vec<_> = transfers.iter().map(|request| request.range.clone()).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".to_owned()), Some("bytes=500000-".to_owned())]);
    assert_eq!(transfers.iter().map(|request| request.sent).sum::<usize>(), 900_000);
}

#[test]
fn a_stopped_pull_leaves_only_what_a_later_one_continues() {
    let place = Place::new();
    let manifest = place.manifest();
    let stopped = place.hub().pull(&manifest, &mut |progress: &Progress| {
        if progress.stage == Stage::Download && progress.done > 400_000 { Err(Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let here = std::fs::metadata(place.incomplete()).unwrap().len();
    assert!(here > 400_000 && here < 900_000);
    assert_eq!(manifest.locate(place.hub().cache()), None);
    place.server.requests();

    let plan = place.hub().plan(&manifest, false).unwrap();
    assert_eq!((plan.files(), plan.bytes(), plan.resumed()), (1, 900_000 - here, here));
    let root = place.hub().fetch(&plan, &mut silent).unwrap();
    assert_eq!(std::fs::read(root.join("unet/net.safetensors")).unwrap(), place.server.large());
    let transfers: Vec<_> = place.server.requests().into_iter().filter(|request| request.host == "storage").collect();
    assert_eq!(transfers.len(), 1);
    assert_eq!(transfers[0].range, Some(format!("bytes={here}-")));
    assert_eq!(transfers[0].sent as u64, 900_000 - here);
}

#[test]
fn a_server_without_ranges_starts_again_and_the_file_is_whole() {
    let place = Place::new();
    place.server.mood(Mood { breaks: vec![300_000], no_ranges: true, ..Mood::default() });
    let root = place.hub().pull(&place.manifest(), &mut silent).unwrap();
    assert_eq!(std::fs::read(root.join("unet/net.safetensors")).unwrap(), place.server.large());
}

#[test]
fn a_connection_that_never_gets_anywhere_is_given_up() {
    let place = Place::new();
    place.server.mood(Mood { breaks: vec![0; 50], ..Mood::default() });
    let (message, hint) = error(place.hub().pull(&place.manifest(), &mut silent));
    assert!(message.contains("after 0 of 900000 bytes"), "{message}");
    assert!(hint.contains("pull again"));
}

#[test]
fn wrong_bytes_are_removed_and_reported() {
    let place = Place::new();
    place.server.mood(Mood { altered: true, ..Mood::default() });
    let (message, _) = error(place.hub().pull(&place.manifest(), &mut silent));
    let expected = sha256(&place.server.large());
    assert!(
        message.contains("unet/net.safetensors") && message.contains(&expected) && message.contains("removed"),
        "{message}"
    );
    assert!(!place.incomplete().exists());
    assert_eq!(place.manifest().locate(place.hub().cache()), None);
    // The next pull starts afresh.
    place.server.mood(Mood::default());
    place.hub().pull(&place.manifest(), &mut silent).unwrap();

    // A manifest that knows better is believed before a byte is fetched.
    let other = Place::new();
    let pinned = "a".repeat(64);
    let file = "path = \"unet/net.safetensors\"";
    let manifest = manifest(other.folder.path(), &[(file, &format!("{file}\nsha256 = \"{pinned}\""))]);
    let (message, _) = error(other.hub().pull(&manifest, &mut silent));
    assert!(message.contains("offers another file") && message.contains(&pinned), "{message}");
    assert!(other.server.requests().iter().all(|request| request.method == "HEAD"));
}

#[test]
fn the_first_pull_pins_what_later_ones_get() {
    let place = Place::new();
    let (hub, manifest) = (place.hub(), place.manifest());
    let root = hub.pull(&manifest, &mut silent).unwrap();
    // The authors move on; a file is lost here.
    place.server.mood(Mood { commit: Some(SECOND), ..Mood::default() });
    place
        .server
        .state
        .lock()
        .unwrap()
        .files
        .insert("config.json".to_owned(), b"{\"size\": 4, \"new\": true}\n".to_vec());
    std::fs::remove_file(root.join("unet/net.safetensors")).unwrap();
    place.server.requests();
    assert_eq!(hub.pull(&manifest, &mut silent).unwrap(), root);
    // The bytes were still in the blobs: only their name was lost.
    let requests = place.server.requests();
    assert!(requests.iter().all(|request| request.path.contains(FIRST) && request.method == "HEAD"), "{requests:?}");

    // Another file behind the same commit is refused by the record.
    std::fs::remove_file(root.join("config.json")).unwrap();
    let (message, hint) = error(hub.pull(&manifest, &mut silent));
    assert!(message.contains("offers another file") && hint.contains("--update"), "{message}");

    let updated = hub.fetch(&hub.plan(&manifest, true).unwrap(), &mut silent).unwrap();
    assert!(updated.ends_with(SECOND));
    assert_eq!(manifest.locate(hub.cache()), Some(updated));
}

#[test]
fn verify_finds_changed_and_missing_files() {
    let place = Place::new();
    let (hub, manifest) = (place.hub(), place.manifest());
    let verdicts = |manifest: &Manifest| manifest.verify(hub.cache(), &mut silent).unwrap();
    assert!(verdicts(&manifest).iter().all(|(_, verdict)| *verdict == Verdict::Missing));
    let root = hub.pull(&manifest, &mut silent).unwrap();
    assert!(verdicts(&manifest).iter().all(|(_, verdict)| *verdict == Verdict::Sound));
    std::fs::write(root.join("config.json"), "{}").unwrap();
    let blob = std::fs::canonicalize(root.join("unet/net.safetensors")).unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    assert!(verdicts(&manifest).iter().all(|(_, verdict)| matches!(verdict, Verdict::Wrong { .. })));
    // Once their names are gone, a pull mends the files.
    for name in ["config.json", "unet/net.safetensors"] {
        std::fs::remove_file(root.join(name)).unwrap();
    }
    hub.pull(&manifest, &mut silent).unwrap();
    assert!(verdicts(&manifest).iter().all(|(_, verdict)| *verdict == Verdict::Sound));
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    // Without a record a small file's hash is unknown, a large one's is its name.
    std::fs::remove_file(place.cache().join("impasto-verified.toml")).unwrap();
    let found = verdicts(&manifest);
    assert!(matches!(found[0].1, Verdict::Unknown { .. }) && matches!(found[1].1, Verdict::Wrong { .. }));
}

#[test]
fn what_another_tool_fetched_is_used_and_checked() {
    let place = Place::new();
    let (hub, manifest) = (place.hub(), place.manifest());
    hub.pull(&manifest, &mut silent).unwrap();
    std::fs::remove_file(place.cache().join("impasto-verified.toml")).unwrap();
    place.server.requests();
    assert!(manifest.locate(hub.cache()).is_some());
    assert!(hub.clone().offline().pull(&manifest, &mut silent).is_ok());
    assert_eq!(place.server.requests(), []);
    hub.pull(&manifest, &mut silent).unwrap();
    assert!(place.server.requests().iter().all(|request| request.method == "HEAD"));
    assert!(place.cache().join("impasto-verified.toml").exists());
}

#[test]
fn the_token_reaches_the_hub_and_nobody_else() {
    let place = Place::new();
    place.server.mood(Mood { token: Some("secret"), ..Mood::default() });
    let (message, hint) = error(place.hub().pull(&place.manifest(), &mut silent));
    assert!(message.contains("401") && hint.contains("HF_TOKEN") && hint.contains(REPO), "{message} {hint}");
    let (message, hint) = error(place.hub().with_token("wrong").pull(&place.manifest(), &mut silent));
    assert!(message.contains("token was refused") && hint.contains("HF_TOKEN"), "{message}");
    place.server.requests();
    place.hub().with_token("secret").pull(&place.manifest(), &mut silent).unwrap();
    let requests = place.server.requests();
    assert!(requests.iter().any(|request| request.host == "storage"));
    for request in requests {
        assert_eq!(request.authorization.is_some(), request.host == "hub", "{request:?}");
    }
}

#[test]
fn a_renamed_repository_is_followed() {
    let place = Place::new();
    let manifest = manifest(place.folder.path(), &[(REPO, "old/name")]);
    let root = place.hub().pull(&manifest, &mut silent).unwrap();
    assert_eq!(std::fs::read(root.join("unet/net.safetensors")).unwrap(), place.server.large());
}

#[test]
fn refusals_say_what_to_do() {
    let place = Place::new();
    for (mood, reason, next) in [
        (Mood { status: Some((404, "RepoNotFound")), ..Mood::default() }, "no such repository", "look at http"),
        (Mood { status: Some((404, "RevisionNotFound")), ..Mood::default() }, "no such revision", "look at"),
        (Mood { status: Some((404, "EntryNotFound")), ..Mood::default() }, "no such file", "look at"),
        (Mood { status: Some((403, "GatedRepo")), ..Mood::default() }, "gated", "HF_TOKEN"),
        (Mood { status: Some((429, "")), ..Mood::default() }, "slow down", "wait"),
        (Mood { status: Some((503, "")), ..Mood::default() }, "in trouble", "later"),
        (Mood { status: Some((200, "")), ..Mood::default() }, "no commit", "HF_ENDPOINT"),
    ] {
        place.server.mood(mood);
        let (message, hint) = error(place.hub().pull(&place.manifest(), &mut silent));
        assert!(
            message.contains(reason) && message.contains("config.json") && hint.contains(next),
            "{message}; {hint}"
        );
    }
    // Nothing was left behind but, at most, empty folders.
    assert!(!place.cache().join("models--painter--brush/snapshots").exists());
}

#[test]
fn without_a_network_the_cache_answers_or_the_error_says_how() {
    let place = Place::new();
    let (message, hint) = error(place.hub().offline().pull(&place.manifest(), &mut silent));
    assert!(message.contains("HF_HUB_OFFLINE") && hint.contains("weights pull brush"), "{message}; {hint}");
    assert_eq!(place.server.requests(), []);
    let (message, hint) = error(place.manifest().require(place.hub().cache()));
    assert!(message.contains("not in the cache") && hint.contains("impasto weights pull brush"), "{message}");

    // A port that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let down =
        Hub::new(format!("http://127.0.0.1:{port}"), Cache::new(place.cache())).with_pause(Duration::from_millis(1));
    let (message, hint) = error(down.pull(&place.manifest(), &mut silent));
    assert!(message.contains(&format!("cannot reach 127.0.0.1:{port}")) && hint.contains("network"), "{message}");
    place.hub().pull(&place.manifest(), &mut silent).unwrap();
    assert!(down.pull(&place.manifest(), &mut silent).is_ok());
    for endpoint in ["nonsense", "", "ftp://x", "http://"] {
        let hub =
            Hub::new(endpoint, Cache::new(place.folder.path().join("other"))).with_pause(Duration::from_millis(1));
        assert!(hub.pull(&place.manifest(), &mut silent).is_err(), "{endpoint}");
    }
}

#[test]
fn manifests_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let all = Manifest::all().unwrap();
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights")).unwrap();
    let mut on_disk: Vec<_> =
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    on_disk.sort();
    assert_eq!(all.len(), on_disk.len(), "a manifest is missing in the index of src/weights/manifest.rs");
    for path in on_disk {
        let read = Manifest::read(&path).unwrap();
        assert_eq!(Manifest::find(&read.name).unwrap(), read);
    }
    let near = Manifest::find("plus").unwrap_err();
    assert!(near.hint().unwrap().contains("ip-adapter-plus-sd15"));

    let path = folder.path().join("bad.toml");
    let good =
        "summary=\"x\"\nkind=\"model\"\nrepo=\"a/b\"\nrevision=\"main\"\nlicence=\"x\"\n[[file]]\npath=\"c/d.json\"\n";
    std::fs::write(&path, good).unwrap();
    assert!(Manifest::find(path.to_str().unwrap()).is_ok());
    for (old, new) in [
        ("a/b", "a"),
        ("a/b", "../b"),
        ("a/b", "a/b/c"),
        ("c/d.json", "../d.json"),
        ("c/d.json", "/etc/passwd"),
        ("c/d.json", "c//d"),
        ("c/d.json", "c\\\\..\\\\d"),
        ("main", "../../x"),
        ("main", ""),
        ("path=\"c/d.json\"", "path=\"c/d.json\"\nsha256=\"123\""),
        ("path=\"c/d.json\"", "path=\"c/d.json\"\nbytes=-1"),
        ("kind=\"model\"", "kind=\"soup\""),
        ("kind=\"model\"", "kind=\"model\"\nentry=\"e\""),
        ("summary", "sumary"),
        ("[[file]]", "[file"),
    ] {
        std::fs::write(&path, good.replace(old, new)).unwrap();
        let error = Manifest::read(&path).unwrap_err();
        assert!(error.to_string().contains("bad.toml"), "{new}: {error}");
    }
}

#[test]
fn a_damaged_record_is_reported_and_not_believed() {
    let place = Place::new();
    std::fs::create_dir_all(place.cache()).unwrap();
    for text in [
        "nonsense",
        "[[file]]\nrepo = 3\n",
        "[[file]]\nrepo=\"a\"\nrevision=\"main\"\ncommit=\"../..\"\npath=\"x\"\nsha256=\"\"\nbytes=1\n",
    ] {
        std::fs::write(place.cache().join("impasto-verified.toml"), text).unwrap();
        let (message, hint) = error(place.hub().pull(&place.manifest(), &mut silent));
        assert!(message.contains("impasto-verified.toml") && hint.contains("delete it"), "{message}");
    }
}
