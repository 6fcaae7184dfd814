//! The little HTTP that the Hub needs: metadata of a file, and its bytes from a given place on.
//!
//! Redirects are followed here and not by the client library, because the token may go to the Hub itself but not to the
//! storage it redirects to, and because the metadata stands on the redirect and not on what it leads to.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use crate::error::{Error, Result};

/// Redirects followed before giving up.
const MAX_REDIRECTS: usize = 8;

/// Silence on a connection for longer than this breaks it.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection to one Hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<String>,
}

/// What the Hub says about a file before it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) commit: String,
    /// Names the content: the SHA-256 for large files, a Git hash for small ones.
    pub(crate) etag: String,
    pub(crate) bytes: u64,
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin(String, String);

impl Origin {
    fn of(url: &Uri) -> Option<Self> {
        let scheme = url.scheme_str()?.to_ascii_lowercase();
        let authority = url.authority()?;
        let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some(Self(scheme, format!("{}:{port}", authority.host().to_ascii_lowercase())))
    }
}

/// Why a transfer stopped, and whether trying again may help.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection failed or the server is overloaded.
    Again(Error),
    /// Trying again would give the same answer.
    Final(Error),
}

impl Broken {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Again(error) | Self::Final(error) => error,
        }
    }
}

/// Bytes of a file as they come in.
pub(crate) struct Transfer {
    /// The position in the file the bytes start at: the one asked for, or 0 if the server cannot start in the middle.
    pub(crate) start: u64,
    pub(crate) reader: Box<dyn Read + Send>,
}

impl Client {
    pub(crate) fn new(endpoint: &str, token: Option<String>) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let bad = |reason: &str| Error::usage("HF_ENDPOINT", format!("`{endpoint}` {reason}"));
        let url: Uri = endpoint.parse().map_err(|_| bad("is not a web address"))?;
        let origin = Origin::of(&url).ok_or_else(|| bad("is not a web address like https://huggingface.co"))?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Sizes and ranges count bytes of the file; compression would make them count something else.
            .accept_encoding("identity")
            .user_agent(concat!("impasto/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        // No proxy stands between a machine and itself.
        if matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            config = config.proxy(None);
        }
        Ok(Self { agent: config.build().into(), endpoint, origin, token })
    }

    /// The web page of a repository, for messages.
    pub(crate) fn page(&self, repo: &str) -> String {
        format!("{}/{repo}", self.endpoint)
    }

    fn url(&self, repo: &str, revision: &str, path: &str) -> String {
        format!("{}/{repo}/resolve/{}/{}", self.endpoint, escape(revision, b""), escape(path, b"/"))
    }

    /// Asks for a file's commit, hash and size.
    pub(crate) fn metadata(&self, repo: &str, revision: &str, path: &str) -> std::result::Result<Metadata, Broken> {
        let subject = format!("{repo} {path}");
        let mut url = self.url(repo, revision, path);
        for _ in 0..MAX_REDIRECTS {
            let response = self.call(&subject, &url, None, true)?;
            let status = response.status().as_u16();
            if matches!(status, 301 | 302 | 303 | 307 | 308) {
                let next = self.target(&subject, &url, &response)?;
                // A repository that moved redirects within the Hub; storage elsewhere knows neither commit nor hash.
                if self.is_hub(&next) && !response.headers().contains_key("x-linked-etag") {
                    url = next;
                    continue;
                }
            } else if !(200..300).contains(&status) {
                return Err(self.refusal(&subject, repo, &response));
            }
            return read_metadata(response.headers()).ok_or_else(|| {
                Broken::Final(
                    Error::remote(&subject, "the server's answer has no commit, etag or size")
                        .with_hint("is HF_ENDPOINT a Hugging Face Hub?"),
                )
            });
        }
        Err(Broken::Final(Error::remote(subject, "the server redirects without end")))
    }

    /// Fetches a file from byte `start` on.
    pub(crate) fn fetch(
        &self,
        repo: &str,
        revision: &str,
        path: &str,
        start: u64,
        bytes: u64,
    ) -> std::result::Result<Transfer, Broken> {
        let subject = format!("{repo} {path}");
        let mut url = self.url(repo, revision, path);
        for _ in 0..MAX_REDIRECTS {
            let response = self.call(&subject, &url, (start > 0).then_some(start), false)?;
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => url = self.target(&subject, &url, &response)?,
                200 => return Ok(Transfer { start: 0, reader: reader(response) }),
                206 => {
                    let range = text(response.headers(), "content-range").and_then(parse_range);
                    if range != Some((start, bytes)) {
                        return Err(Broken::Final(Error::remote(
                            subject,
                            "the server sent another part of the file than asked for",
                        )));
                    }
                    return Ok(Transfer { start, reader: reader(response) });
                }
                _ => return Err(self.refusal(&subject, repo, &response)),
            }
        }
        Err(Broken::Final(Error::remote(subject, "the server redirects without end")))
    }

    fn is_hub(&self, url: &str) -> bool {
        url.parse().ok().and_then(|url| Origin::of(&url)).is_some_and(|origin| origin == self.origin)
    }

    fn call(
        &self,
        subject: &str,
        url: &str,
        start: Option<u64>,
        head: bool,
    ) -> std::result::Result<Response<Body>, Broken> {
        let mut request = if head { self.agent.head(url) } else { self.agent.get(url) };
        if let (Some(token), true) = (&self.token, self.is_hub(url)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(start) = start {
            request = request.header("range", format!("bytes={start}-"));
        }
        request.call().map_err(|error| {
            let host = url.split('/').nth(2).unwrap_or(url);
            let reason = format!("cannot reach {host}: {error}");
            let hint = "check the network and HF_ENDPOINT; what is in the cache works without a network";
            match error {
                ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => {
                    Broken::Again(Error::remote(subject, reason).with_hint(hint))
                }
                _ => Broken::Final(Error::remote(subject, reason).with_hint(hint)),
            }
        })
    }

    /// Where a redirect leads.
    fn target(&self, subject: &str, from: &str, response: &Response<Body>) -> std::result::Result<String, Broken> {
        let wrong = |reason: &str| Broken::Final(Error::remote(subject, format!("the server redirects {reason}")));
        let location = text(response.headers(), "location").ok_or_else(|| wrong("to nowhere"))?;
        let Ok(current) = from.parse::<Uri>() else { return Err(wrong("from nowhere")) };
        if location.starts_with('/') && !location.starts_with("//") {
            let (scheme, authority) = (current.scheme_str().unwrap_or("https"), current.authority());
            return Ok(format!("{scheme}://{}{location}", authority.map_or("", |authority| authority.as_str())));
        }
        match location.parse::<Uri>().ok().as_ref().and_then(Uri::scheme_str) {
            Some("https") => Ok(location.to_owned()),
            Some("http") if current.scheme_str() == Some("http") => Ok(location.to_owned()),
            Some("http") => Err(wrong("from an encrypted connection to an open one")),
            _ => Err(wrong("to something that is no web address")),
        }
    }

    /// Says what a status means for the user.
    fn refusal(&self, subject: &str, repo: &str, response: &Response<Body>) -> Broken {
        let status = response.status().as_u16();
        let code = text(response.headers(), "x-error-code").unwrap_or_default();
        let page = self.page(repo);
        let error = |reason: &str| Error::remote(subject, format!("{reason} (HTTP {status})"));
        match (status, code) {
            (401 | 403, _) if self.token.is_none() => {
                Broken::Final(error("the repository is private, gated or does not exist").with_hint(format!(
                    "accept its terms at {page} if it has any, then set HF_TOKEN to an access token of yours"
                )))
            }
            (401 | 403, _) => Broken::Final(
                error("the token was refused").with_hint(format!("accept the terms at {page}, and check HF_TOKEN")),
            ),
            (404, "RepoNotFound") => {
                Broken::Final(error("there is no such repository").with_hint(format!("look at {page}")))
            }
            (404, "RevisionNotFound") => {
                Broken::Final(error("the repository has no such revision").with_hint(format!("look at {page}")))
            }
            (404, _) => Broken::Final(error("the repository has no such file").with_hint(format!("look at {page}"))),
            (416, _) => Broken::Final(error("the server has fewer bytes than were fetched before")),
            (429, _) => {
                Broken::Again(error("the server asks to slow down").with_hint("wait a few minutes, or set HF_TOKEN"))
            }
            (500..600, _) => Broken::Again(error("the server is in trouble").with_hint("try again later")),
            _ => Broken::Final(error("the server gave an answer that makes no sense here")),
        }
    }
}

fn reader(response: Response<Body>) -> Box<dyn Read + Send> {
    Box::new(response.into_body().into_reader())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn parse_range(value: &str) -> Option<(u64, u64)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

fn read_metadata(headers: &HeaderMap) -> Option<Metadata> {
    let commit = text(headers, "x-repo-commit").filter(|commit| super::super::cache::is_commit(commit))?.to_owned();
    let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    // It becomes a file's name.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(plain) {
        return None;
    }
    let bytes = text(headers, "x-linked-size").or_else(|| text(headers, "content-length"))?.parse().ok()?;
    Some(Metadata { commit, etag, bytes })
}

/// Escapes what may not stand in a web address, except `keep`.
fn escape(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
