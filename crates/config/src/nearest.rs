//! The valid word that is most like a wrong one, for "did you mean".

/// The candidate nearest to `word`, if one is near enough to be meant: one edit for up to 3 letters, two for up to 8, else three.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let limit = match word.chars().count() {
        0..=3 => 1,
        4..=8 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&word, c), c))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// `a`, `b` and `c` as text; empty for no words.
pub(crate) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|w| format!("`{w}`")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swapped_pair_of_letters_is_one_mistake() {
        assert_eq!(nearest("nmae", ["weight", "name", "zone"]), Some("name"));
    }

    #[test]
    fn a_dash_for_an_underscore_is_no_mistake() {
        assert_eq!(nearest("start-timeout", ["use", "start_timeout"]), Some("start_timeout"));
    }

    #[test]
    fn nothing_is_suggested_for_a_word_of_its_own() {
        assert_eq!(nearest("banana", ["name", "zone", "env"]), None);
    }
}
