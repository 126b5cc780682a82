//! From a row of answers to how something stands.

/// How a check answered, or stands, the best first; in Consul's words passing, warning, critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    Passes,
    /// Something is wrong, and it passes all the same.
    Warns,
    Fails,
}

/// Counts answers until enough in a row say another thing.
#[derive(Debug)]
pub(super) struct Tally {
    failure_threshold: u32,
    success_threshold: u32,
    now: Answer,
    has_passed: bool,
    has_failed: bool,
    /// Answers in a row that are worse than how it stands, and the best of them.
    worse: (u32, Answer),
    /// Those that are better, and the worst of them.
    better: (u32, Answer),
}

impl Tally {
    pub(super) fn new(failure_threshold: u32, success_threshold: u32) -> Self {
        Self {
            failure_threshold,
            success_threshold,
            now: Answer::Fails,
            has_passed: false,
            has_failed: false,
            worse: (0, Answer::Fails),
            better: (0, Answer::Passes),
        }
    }

    /// Counts one answer. Says how it stands now, if it turned. The first of all that passes counts at once.
    pub(super) fn count(&mut self, answer: Answer) -> Option<Answer> {
        if answer > self.now {
            self.worse = (self.worse.0 + 1, self.worse.1.min(answer));
        } else {
            self.worse = (0, Answer::Fails);
        }
        if answer < self.now {
            self.better = (self.better.0 + 1, self.better.1.max(answer));
        } else {
            self.better = (0, Answer::Passes);
        }
        let passes = if self.has_passed { self.success_threshold } else { 1 };
        if self.worse.0 >= self.failure_threshold {
            self.now = self.worse.1;
        } else if self.better.0 >= passes {
            self.now = self.better.1;
        } else {
            return None;
        }
        (self.worse, self.better) = ((0, Answer::Fails), (0, Answer::Passes));
        self.has_passed |= self.now != Answer::Fails;
        Some(self.now)
    }

    /// Whether it has passed once.
    pub(super) fn has_passed(&self) -> bool {
        self.has_passed
    }

    /// Says once that it failed before it ever passed.
    pub(super) fn is_first_failure(&mut self, answer: Answer) -> bool {
        let is_first = answer == Answer::Fails && !self.has_passed && !self.has_failed;
        self.has_failed |= is_first;
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` passes, `!` warns, `-` fails, `.` is no turn.
    fn turns(tally: &mut Tally, answers: &str) -> String {
        let answer = |c| match c {
            '+' => Answer::Passes,
            '!' => Answer::Warns,
            _ => Answer::Fails,
        };
        let sign = |turn| match turn {
            None => '.',
            Some(Answer::Passes) => '+',
            Some(Answer::Warns) => '!',
            Some(Answer::Fails) => '-',
        };
        answers.chars().map(|c| sign(tally.count(answer(c)))).collect()
    }

    #[test]
    fn turns_after_as_many_answers_in_a_row_as_its_thresholds_say() {
        let mut tally = Tally::new(3, 2);
        // The first pass of all is enough.
        assert_eq!(turns(&mut tally, "--+"), "..+");
        assert_eq!(turns(&mut tally, "--+--"), ".....");
        assert_eq!(turns(&mut tally, "-"), "-");
        assert_eq!(turns(&mut tally, "+-+"), "...");
        assert_eq!(turns(&mut tally, "+"), "+");
    }

    #[test]
    fn a_warning_passes_and_is_turned_to_and_from_as_a_failure_is() {
        let mut tally = Tally::new(2, 2);
        assert_eq!(turns(&mut tally, "!"), "!");
        assert!(tally.has_passed());
        assert_eq!(turns(&mut tally, "++!!"), ".+.!");
        // Of a mixed row the least bad counts, and the least good.
        assert_eq!(turns(&mut tally, "++-!--"), ".+.!.-");
        assert_eq!(turns(&mut tally, "!+++"), ".!.+");
    }

    #[test]
    fn the_first_failure_is_told_once_and_only_before_it_has_passed() {
        let mut tally = Tally::new(3, 1);
        assert!(tally.is_first_failure(Answer::Fails) && !tally.is_first_failure(Answer::Fails));
        let mut passed = Tally::new(3, 1);
        passed.count(Answer::Passes);
        assert!(!passed.is_first_failure(Answer::Fails));
    }
}
