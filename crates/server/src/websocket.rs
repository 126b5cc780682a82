//! The polite end of a WebSocket (RFC 6455): what goes out is followed frame by frame, so that a close frame of
//! the server's own can stand between two of them.

/// Close, with status 1001: the endpoint is going away.
const GOING_AWAY: &[u8] = &[0x88, 2, 0x03, 0xe9];
/// The longest head of a frame: opcode, length, extended length, mask.
const HEAD: usize = 2 + 8 + 4;

/// What the server's side of a WebSocket has sent.
#[derive(Debug)]
pub(crate) struct WebSocket {
    state: State,
    /// What of the close frame is still to be sent, once it was begun.
    goodbye: Option<&'static [u8]>,
}

#[derive(Debug)]
enum State {
    /// The answer that switches protocols; so many bytes of the empty line at its end were seen.
    Answer(usize),
    /// The head of a frame, so far.
    Head([u8; HEAD], usize),
    /// So many bytes of a frame are missing.
    Payload(u64),
    /// A close frame was sent: there is nothing to say any more.
    Closed,
}

impl WebSocket {
    pub(crate) fn new() -> Self {
        Self { state: State::Answer(0), goodbye: None }
    }

    /// One whose answer was sent elsewhere.
    pub(crate) fn open() -> Self {
        Self { state: State::Head([0; HEAD], 0), goodbye: None }
    }

    /// Follows what was sent.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            bytes = rest;
            match &mut self.state {
                State::Answer(seen) => {
                    const END: &[u8] = b"\r\n\r\n";
                    *seen = if END[*seen] == first { *seen + 1 } else { usize::from(first == END[0]) };
                    if *seen == END.len() {
                        self.state = State::Head([0; HEAD], 0);
                    }
                }
                State::Head(head, seen) => {
                    head[*seen] = first;
                    *seen += 1;
                    if let Some(payload) = payload_of(&head[..*seen]) {
                        let close = head[0] & 0x0f == 8;
                        self.state = match payload {
                            _ if close => State::Closed,
                            0 => State::Head([0; HEAD], 0),
                            payload => State::Payload(payload),
                        };
                    }
                }
                State::Payload(missing) => {
                    let more = (*missing - 1).min(bytes.len() as u64);
                    *missing -= 1 + more;
                    bytes = &bytes[more as usize..];
                    if *missing == 0 {
                        self.state = State::Head([0; HEAD], 0);
                    }
                }
                State::Closed => return,
            }
        }
    }

    /// Begins the goodbye, if one can stand here; says what of it is to be sent.
    pub(crate) fn goodbye(&mut self) -> &'static [u8] {
        if self.goodbye.is_none() && matches!(self.state, State::Head(_, 0)) {
            self.goodbye = Some(GOING_AWAY);
        }
        self.goodbye.unwrap_or_default()
    }

    /// So many bytes of the goodbye were sent.
    pub(crate) fn said(&mut self, bytes: usize) {
        self.goodbye = self.goodbye.map(|rest| &rest[bytes.min(rest.len())..]);
    }

    /// Whether whatever its user still sends comes after the goodbye, and is for nobody.
    pub(crate) fn is_over(&self) -> bool {
        self.goodbye.is_some()
    }
}

/// The length of the payload, once the head is whole.
fn payload_of(head: &[u8]) -> Option<u64> {
    let &[_, second, ref rest @ ..] = head else { return None };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (extended, short) = match second & 0x7f {
        126 => (2, 0),
        127 => (8, 0),
        short => (0, u64::from(short)),
    };
    if rest.len() < extended + mask {
        return None;
    }
    let long = rest[..extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    Some(short + long)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match payload {
            0..=125 => frame.push(mask | payload as u8),
            126..=0xffff => {
                frame.push(mask | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0x88; payload + if masked { 4 } else { 0 }]);
        frame
    }

    #[test]
    fn a_goodbye_stands_between_two_frames_only() {
        for frame in [frame(1, 0, false), frame(2, 5, false), frame(2, 126, true), frame(2, 70_000, false)] {
            let all = [ANSWER, &frame].concat();
            for step in [1, 3, 1000, 100_000] {
                let mut socket = WebSocket::new();
                let mut sent = 0;
                for part in all.chunks(step) {
                    socket.sent(part);
                    sent += part.len();
                    let between = sent == ANSWER.len() || sent == all.len();
                    let place = matches!(socket.state, State::Head(_, 0));
                    assert_eq!(place, between, "{sent} of {} by {step}", all.len());
                }
                assert_eq!(socket.goodbye(), GOING_AWAY);
                assert!(socket.is_over());
                socket.said(3);
                assert_eq!(socket.goodbye(), &GOING_AWAY[3..]);
                socket.said(1);
                assert!(socket.goodbye().is_empty());
            }
        }
    }

    #[test]
    fn who_has_closed_says_no_more() {
        let mut socket = WebSocket::new();
        socket.sent(&[ANSWER, &frame(8, 2, false)].concat());
        assert!(socket.goodbye().is_empty() && !socket.is_over());
    }
}
