//! Archives that Compose copies into containers: the time in them is that of the rehearsal, so it is taken out. What is
//! the same then has the same digest.

const BLOCK: usize = 512;

/// The same tar archive with every file's time at the epoch. What is no plain tar stays as it is.
pub(super) fn timeless(tar: &[u8]) -> Vec<u8> {
    let mut made = tar.to_vec();
    let mut at = 0;
    while at + BLOCK <= made.len() {
        let header = &mut made[at..at + BLOCK];
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let Some(size) = octal(&header[124..136]).filter(|_| sum(header) == octal(&header[148..156])) else {
            return tar.to_vec();
        };
        header[136..148].copy_from_slice(b"00000000000\0");
        let checksum = format!("{:06o}\0 ", sum(header).unwrap_or_default());
        header[148..156].copy_from_slice(checksum.as_bytes());
        at += BLOCK + (size as usize).div_ceil(BLOCK) * BLOCK;
    }
    made
}

/// A number as headers have it.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(text, 8).ok()
}

/// A header's checksum: of its bytes, those of the checksum taken for spaces.
fn sum(header: &[u8]) -> Option<u64> {
    let bytes = header.iter().enumerate();
    Some(bytes.map(|(place, byte)| if (148..156).contains(&place) { 32 } else { u64::from(*byte) }).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(time: &[u8; 12], content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..4].copy_from_slice(b"motd");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(time);
        let checksum = format!("{:06o}\0 ", sum(&header).unwrap());
        header[148..156].copy_from_slice(checksum.as_bytes());
        let mut tar = header.clone();
        tar.extend(content);
        tar.resize(tar.len().div_ceil(BLOCK) * BLOCK, 0);
        tar.extend(vec![0; 2 * BLOCK]);
        tar
    }

    #[test]
    fn only_the_time_is_taken_out() {
        let content = vec![7; 700];
        let (one, other) = (archive(b"14712345670\0", &content), archive(b"14712345671\0", &content));
        assert_ne!(one, other);
        assert_eq!(timeless(&one), timeless(&other));
        assert_eq!(timeless(&one), archive(b"00000000000\0", &content));
        assert_ne!(timeless(&one), timeless(&archive(b"14712345670\0", &[8; 700])));
        for other in [&b""[..], b"no tar", &[1; 2000]] {
            assert_eq!(timeless(other), other);
        }
    }
}
