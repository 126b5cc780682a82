//! How a record stands in its file: a line that measures it, then the JSON of the instance.
//!
//! ```text
//! {"meshwork":1,"length":212,"checksum":"85dd3a1c04ee7e52","pid":4711,"started":88123,"space":4026531836}
//! {"schema":1,"service":"users","id":"users-…", …}
//! ```
//! Both lines are JSON, so `cat` and `jq` read it. The checksum is FNV-1a of 64 bit over the JSON, in
//! hexadecimal digits. A file is rewritten in place, so what follows the measured bytes means nothing.

use meshwork_core::{MAX_RECORD_BYTES, Refusal, RefusalKind};
use serde::{Deserialize, Serialize};

use super::process::Process;

/// The most bytes that a file may have: the longest record and its first line.
pub(super) const MAX_FILE_BYTES: usize = MAX_RECORD_BYTES + MAX_HEAD;

const FORMAT: u32 = 1;
const MAX_HEAD: usize = 512;
/// What every file of ours begins with.
const MARK: &[u8] = b"{\"meshwork\":";

#[derive(Serialize, Deserialize)]
struct Head {
    meshwork: u32,
    #[serde(default)]
    length: usize,
    #[serde(default)]
    checksum: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    started: u64,
    #[serde(default)]
    space: u64,
}

/// What a well measured file says.
#[derive(Debug)]
pub(super) struct Framed<'a> {
    /// The record.
    pub(super) json: &'a [u8],
    /// Its checksum.
    pub(super) sum: u64,
    /// Who wrote it.
    pub(super) writer: Process,
}

/// Why a file gives no record.
#[derive(Debug)]
pub(super) enum Flaw {
    /// Length or checksum are wrong: it is being rewritten, or was damaged.
    Torn(&'static str),
    /// Waiting cannot make it one.
    Refused(Refusal),
}

/// The bytes of a file whose record is `json`, written by this process.
pub(super) fn frame(json: &[u8]) -> Vec<u8> {
    let Process { pid, started, space } = Process::own();
    let checksum = format!("{:016x}", checksum(json));
    let head = Head { meshwork: FORMAT, length: json.len(), checksum, pid, started, space };
    let mut file = serde_json::to_vec(&head).expect("invariant: the first line has only plain fields");
    file.push(b'\n');
    file.extend_from_slice(json);
    file.push(b'\n');
    file
}

/// Reads what [`frame`] wrote.
pub(super) fn parse(file: &[u8]) -> Result<Framed<'_>, Flaw> {
    if file.len() > MAX_FILE_BYTES {
        let text = format!("file is larger than {MAX_FILE_BYTES} bytes");
        return Err(Flaw::Refused(Refusal::new(RefusalKind::TooLarge, text)));
    }
    let Some(end) = file.iter().take(MAX_HEAD).position(|b| *b == b'\n') else {
        return Err(Flaw::Torn("its first line does not end"));
    };
    let (line, rest) = (&file[..end], &file[end + 1..]);
    let head: Head =
        serde_json::from_slice(line).map_err(|_json| Flaw::Torn("its first line is not one of ours"))?;
    if head.meshwork != FORMAT {
        let text = format!("file format {} is not {FORMAT}, the one this version reads", head.meshwork);
        return Err(Flaw::Refused(Refusal::new(RefusalKind::Schema, text)));
    }
    if head.length > MAX_RECORD_BYTES {
        let text = format!("record of {} bytes is larger than {MAX_RECORD_BYTES}", head.length);
        return Err(Flaw::Refused(Refusal::new(RefusalKind::TooLarge, text)));
    }
    let json = rest.get(..head.length).ok_or(Flaw::Torn("it is shorter than its first line says"))?;
    let sum = checksum(json);
    if u64::from_str_radix(&head.checksum, 16) != Ok(sum) {
        return Err(Flaw::Torn("its checksum is wrong"));
    }
    let writer = Process { pid: head.pid, started: head.started, space: head.space };
    Ok(Framed { json, sum, writer })
}

/// Whether a file that begins so was made by a local registry; an empty one was cut off while made.
pub(super) fn is_ours(start: &[u8]) -> bool {
    start.is_empty() || start.starts_with(MARK)
}

/// FNV-1a, 64 bit.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_way_through_its_file() {
        for json in [&b"{}"[..], b"", &[b'x'; MAX_RECORD_BYTES]] {
            let mut file = frame(json);
            let head = file.iter().position(|b| *b == b'\n').unwrap();
            assert!(head < MAX_HEAD && is_ours(&file));
            let framed = parse(&file).unwrap();
            assert_eq!((framed.json, framed.writer), (json, Process::own()));
            file.extend_from_slice(b"left of a longer one");
            assert!(file.len() > MAX_FILE_BYTES || parse(&file).is_ok());
        }
    }

    #[test]
    fn every_mixture_of_two_records_is_torn_or_one_of_them() {
        let old = frame(br#"{"schema":1,"weight":100,"status":"up"}"#);
        let new = frame(br#"{"schema":1,"weight":7,"status":"leaving","labels":{"a":"b"}}"#);
        for cut in 0..=new.len() {
            let mut mixed = new[..cut].to_vec();
            mixed.extend(old.iter().skip(cut));
            if let Ok(framed) = parse(&mixed) {
                let whole = [&old, &new].map(|file| parse(file).unwrap().json);
                assert!(whole.contains(&framed.json), "{cut}");
            }
        }
    }

    #[test]
    fn what_is_no_file_of_ours_is_told_apart_from_what_is_torn() {
        let kind = |file: &[u8]| match parse(file).unwrap_err() {
            Flaw::Torn(_) => None,
            Flaw::Refused(refusal) => Some(refusal.kind()),
        };
        assert_eq!(kind(b""), None);
        assert_eq!(kind(b"nonsense\n"), None);
        assert_eq!(kind(b"{\"meshwork\":2}\n"), Some(RefusalKind::Schema));
        assert_eq!(kind(b"{\"meshwork\":1,\"length\":99999999}\n"), Some(RefusalKind::TooLarge));
        assert_eq!(kind(&vec![b' '; MAX_FILE_BYTES + 1]), Some(RefusalKind::TooLarge));
        assert!(!is_ours(b"notes of mine"));
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(checksum(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(checksum(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
