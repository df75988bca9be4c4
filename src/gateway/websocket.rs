//! Where WebSocket frames begin and end in a stream of bytes (RFC 6455, 5.2): only there may a frame of our own stand.

/// The status that says "going away" (RFC 6455, 7.4.1): the client may connect again at once.
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// FIN and the opcode of a Close.
const CLOSE: u8 = 0x88;
const OPCODE: u8 = 0x0f;
const OPCODE_CLOSE: u8 = 0x08;
const MASKED: u8 = 0x80;

/// The longest head: two bytes, a length of eight and a mask of four.
const HEAD_MAX: usize = 14;

/// Follows one direction of a WebSocket connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_MAX],
    /// Bytes of the head that have been seen.
    seen: usize,
    /// Bytes of the payload that are still to come.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// Is the next byte the first of a frame?
    pub(super) fn at_boundary(&self) -> bool {
        self.seen == 0 && self.payload == 0
    }

    /// Has a Close frame begun? After it no other frame may come.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Follows all of `bytes`.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let Some(end) = self.until_boundary(bytes) {
            bytes = &bytes[end..];
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Follows `bytes` up to the first end of a frame in them and says where it is.
    pub(super) fn until_boundary(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.payload > 0 {
                let rest = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX);
                let step = self.payload.min(rest);
                self.payload -= step;
                at += usize::try_from(step).unwrap_or(usize::MAX);
            } else {
                self.head[self.seen] = bytes[at];
                self.seen += 1;
                at += 1;
                if self.seen < self.head_length() {
                    continue;
                }
                self.payload = self.payload_length();
                self.closed |= self.head[0] & OPCODE == OPCODE_CLOSE;
                self.seen = 0;
            }
            if self.at_boundary() {
                return Some(at);
            }
        }
        None
    }

    /// How long the head is, as far as can be told from what has been seen of it.
    fn head_length(&self) -> usize {
        if self.seen < 2 {
            return 2;
        }
        let length = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & MASKED == 0 { 0 } else { 4 }
    }

    fn payload_length(&self) -> u64 {
        let big_endian = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match self.head[1] & !MASKED {
            126 => big_endian(&self.head[2..4]),
            127 => big_endian(&self.head[2..10]),
            length => u64::from(length),
        }
    }
}

/// A Close as a server sends it.
pub(super) fn close_to_client() -> Vec<u8> {
    vec![CLOSE, 2, GOING_AWAY[0], GOING_AWAY[1]]
}

/// A Close as a client sends it: masked.
pub(super) fn close_to_server(mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![CLOSE, MASKED | 2];
    frame.extend_from_slice(&mask);
    frame.extend([GOING_AWAY[0] ^ mask[0], GOING_AWAY[1] ^ mask[1]]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: u8, payload: usize, mask: bool) -> Vec<u8> {
        let flag = if mask { MASKED } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match payload {
            0..=125 => bytes.push(flag | u8::try_from(payload).expect("small")),
            126..=0xffff => {
                bytes.push(flag | 126);
                bytes.extend(u16::try_from(payload).expect("small").to_be_bytes());
            }
            _ => {
                bytes.push(flag | 127);
                bytes.extend(u64::try_from(payload).expect("small").to_be_bytes());
            }
        }
        if mask {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.extend(std::iter::repeat_n(0x88, payload));
        bytes
    }

    #[test]
    fn a_close_is_known_by_its_head() {
        let mut frames = Frames::default();
        frames.advance(&frame(1, 300, true));
        assert!(frames.at_boundary() && !frames.closed());
        frames.advance(&close_to_server([9, 8, 7, 6]));
        assert!(frames.at_boundary() && frames.closed());
        assert_eq!(close_to_client(), [0x88, 2, 0x03, 0xe9]);
    }

    proptest! {
        #[test]
        fn boundaries_are_found_however_the_stream_is_cut(
            sizes in prop::collection::vec(
                (
                    prop_oneof![Just(0_usize), Just(125), Just(126), Just(65535), Just(65536), 0_usize..500],
                    any::<bool>()
                ),
                1..6
            ),
            cuts in prop::collection::vec(1_usize..2000, 1..8),
        ) {
            let mut stream = Vec::new();
            let mut ends = Vec::new();
            for (size, mask) in &sizes {
                stream.extend(frame(2, *size, *mask));
                ends.push(stream.len());
            }
            let (mut frames, mut found, mut at) = (Frames::default(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                let piece_end = stream.len().min(at + cut);
                while at < piece_end {
                    match frames.until_boundary(&stream[at..piece_end]) {
                        Some(end) => { at += end; found.push(at); }
                        None => at = piece_end,
                    }
                }
                if at == stream.len() { break; }
            }
            prop_assert_eq!(found, ends);
            let mut whole = Frames::default();
            whole.advance(&stream);
            prop_assert!(whole.at_boundary() && !whole.closed());
        }
    }
}
