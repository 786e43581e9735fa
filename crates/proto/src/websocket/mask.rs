//! The masking of frames that a WebSocket's client sends.

/// Masks or unmasks `bytes`.
pub(crate) fn apply_mask(mask: [u8; 4], bytes: &mut [u8]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in words.by_ref().filter_map(|word| <&mut [u8; 8]>::try_from(word).ok()) {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
