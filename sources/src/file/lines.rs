//! Splits bytes into lines in large chunks, without copying a line and within bounded memory.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

/// Read at once: large enough that the system call costs nothing per line.
const CHUNK_BYTES: usize = 1 << 20;

/// Longer lines are cut here, so that a file without line ends cannot fill the memory. What is left
/// is far over any `max_bytes` and becomes a dead letter.
pub(super) const LINE_BYTES_MAX: usize = 64 << 20;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A line, without its line feed; see [`Lines::bytes`].
    Line(Range<usize>),
    /// No whole line is at hand, and more must be read for one.
    Wait,
    /// There are no more lines.
    End,
}

/// The lines of a reader; the last one needs no line feed.
pub(super) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    /// What was read and not yet handed on: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// No line feed lies in `buffer[start..scanned]`.
    scanned: usize,
    line_bytes_max: usize,
    /// A line was cut; its rest is passed over.
    cut: bool,
    ended: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self::with_sizes(input, CHUNK_BYTES, LINE_BYTES_MAX)
    }

    fn with_sizes(input: R, chunk_bytes: usize, line_bytes_max: usize) -> Self {
        let buffer = vec![0; chunk_bytes];
        Self {
            input,
            buffer,
            start: 0,
            end: 0,
            scanned: 0,
            line_bytes_max,
            cut: false,
            ended: false,
        }
    }

    /// The bytes of a line, until the next step.
    pub(super) fn bytes(&self, line: &Range<usize>) -> &[u8] {
        self.buffer.get(line.clone()).unwrap_or_default()
    }

    /// The next line. Without `may_read` only of what was read before.
    pub(super) fn step(&mut self, may_read: bool) -> io::Result<Step> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..self.end]) {
                let line = self.start..self.scanned + at;
                self.start = line.end + 1;
                self.scanned = self.start;
                if std::mem::take(&mut self.cut) {
                    continue;
                }
                return Ok(Step::Line(self.limited(line)));
            }
            self.scanned = self.end;
            if self.cut {
                self.start = self.end;
            } else if self.end - self.start >= self.line_bytes_max {
                self.cut = true;
                return Ok(Step::Line(self.rest()));
            }
            if self.ended {
                let last = self.rest();
                return Ok(if last.is_empty() { Step::End } else { Step::Line(last) });
            }
            if !may_read {
                return Ok(Step::Wait);
            }
            self.read()?;
        }
    }

    /// Everything that is left in the buffer, as one line.
    fn rest(&mut self) -> Range<usize> {
        let line = self.start..self.end;
        self.start = self.end;
        self.limited(line)
    }

    fn limited(&self, line: Range<usize>) -> Range<usize> {
        line.start..line.end.min(line.start + self.line_bytes_max)
    }

    fn read(&mut self) -> io::Result<()> {
        self.make_room();
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end, self.scanned) = (0, 0, 0);
            // One long line must not cost its memory for ever.
            if self.buffer.len() > CHUNK_BYTES {
                self.buffer.truncate(CHUNK_BYTES);
                self.buffer.shrink_to_fit();
            }
        } else if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.scanned -= self.start;
                self.start = 0;
            } else {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time, and an interruption now and then.
    struct Dribble<'t>(&'t [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(5) {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = (self.1 % 3 + 1).min(out.len()).min(self.0.len());
            let (now, later) = self.0.split_at(count);
            out[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn all(mut lines: Lines<impl Read>) -> Vec<String> {
        let mut out = Vec::new();
        loop {
            match lines.step(true).unwrap() {
                Step::Line(line) => out.push(String::from_utf8_lossy(lines.bytes(&line)).into()),
                Step::End => return out,
                Step::Wait => panic!("it may read"),
            }
        }
    }

    #[test]
    fn lines_do_not_depend_on_how_they_are_read() {
        for text in
            ["", "\n", "a", "a\n", "a\n\nbb\nccc", "long line of text\nx\nlonger still than that\n"]
        {
            let wanted: Vec<_> = text.lines().map(str::to_owned).collect();
            for chunk_bytes in [1, 2, 3, 7, 64] {
                assert_eq!(
                    all(Lines::with_sizes(text.as_bytes(), chunk_bytes, 99)),
                    wanted,
                    "{text:?}"
                );
                let dribble = Dribble(text.as_bytes(), 0);
                assert_eq!(all(Lines::with_sizes(dribble, chunk_bytes, 99)), wanted, "{text:?}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_its_rest_passed_over() {
        for text in ["12345678901234567890\nab\n", "12345678901234567890\nab"] {
            for chunk_bytes in [1, 2, 4, 16, 64] {
                let dribble = Dribble(text.as_bytes(), 0);
                assert_eq!(all(Lines::with_sizes(dribble, chunk_bytes, 6)), ["123456", "ab"]);
                let lines = Lines::with_sizes(text.as_bytes(), chunk_bytes, 6);
                assert_eq!(all(lines), ["123456", "ab"]);
            }
        }
        assert_eq!(all(Lines::with_sizes("1234567890".as_bytes(), 4, 6)), ["123456"]);
    }

    #[test]
    fn without_leave_to_read_it_waits() {
        let mut lines = Lines::with_sizes("a\nb".as_bytes(), 64, 99);
        assert_eq!(lines.step(false).unwrap(), Step::Wait);
        assert!(matches!(lines.step(true).unwrap(), Step::Line(_)));
        assert_eq!(lines.step(false).unwrap(), Step::Wait);
        assert!(matches!(lines.step(true).unwrap(), Step::Line(_)));
        assert_eq!(lines.step(false).unwrap(), Step::End);
    }

    #[test]
    fn memory_is_given_back_after_a_long_line() {
        let text = [vec![b'x'; 5 * CHUNK_BYTES], b"\nshort\n".to_vec()].concat();
        let mut lines = Lines::new(text.as_slice());
        while lines.step(true).unwrap() != Step::End {}
        assert!(lines.buffer.capacity() <= CHUNK_BYTES, "{}", lines.buffer.capacity());
    }
}
