//! Reading scans: Huffman codes to coefficients, baseline and progressive.
//!
//! ITU-T T.81, annexes F and G.

use super::{Component, Frame, ZIGZAG};

/// Bits looked up at once; longer codes are rare.
const FAST: u32 = 9;

/// A code table.
pub(super) struct Huffman {
    /// Length and symbol by the next [`FAST`] bits; length 0 for longer codes.
    fast: [(u8, u8); 1 << FAST],
    /// By length: the first code beyond, at the top of 16 bits.
    limits: [u32; 17],
    /// By length: what takes a code to its symbol's place.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table =
            Self { fast: [(0, 0); 1 << FAST], limits: [0; 17], offsets: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            table.offsets[length as usize] = place as i32 - code as i32;
            for _ in 0..count {
                if length <= FAST {
                    let first = (code << (FAST - length)) as usize;
                    let entry = (length as u8, *symbols.get(place)?);
                    table.fast.get_mut(first..first + (1 << (FAST - length)))?.fill(entry);
                }
                code += 1;
                place += 1;
            }
            if code > 1 << length {
                return None;
            }
            table.limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// The entropy-coded bytes of a scan, bit by bit, up to the next marker.
struct Bits<'a> {
    rest: &'a [u8],
    bits: u64,
    count: u32,
    /// Bits that were made up behind the end.
    missing: u32,
}

impl<'a> Bits<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, bits: 0, count: 0, missing: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match *self.rest {
                [0xff, 0, ..] => {
                    self.rest = &self.rest[2..];
                    0xff
                }
                [] | [0xff, ..] => {
                    self.missing += 8;
                    0
                }
                [byte, ..] => {
                    self.rest = &self.rest[1..];
                    byte
                }
            };
            self.bits = (self.bits << 8) | u64::from(byte);
            self.count += 8;
        }
    }

    fn peek(&mut self, count: u32) -> u32 {
        if self.count < count {
            self.fill();
        }
        ((self.bits >> (self.count - count)) & ((1 << count) - 1)) as u32
    }

    /// Takes bits that were peeked at; `None` behind the end.
    fn take(&mut self, count: u32) -> Option<()> {
        self.count -= count;
        (self.missing <= self.count).then_some(())
    }

    fn bits(&mut self, count: u32) -> Option<i32> {
        let bits = self.peek(count);
        self.take(count)?;
        Some(bits as i32)
    }

    fn symbol(&mut self, table: &Huffman) -> Option<u8> {
        let next = self.peek(16);
        let (length, symbol) = table.fast[(next >> (16 - FAST)) as usize];
        if length > 0 {
            self.take(u32::from(length))?;
            return Some(symbol);
        }
        let length = (FAST as usize + 1..=16).find(|&length| next < table.limits[length])?;
        let place = (next >> (16 - length)) as i32 + table.offsets[length];
        self.take(length as u32)?;
        table.symbols.get(usize::try_from(place).ok()?).copied()
    }

    /// A signed number of that many bits.
    fn number(&mut self, bits: u8) -> Option<i32> {
        if bits == 0 {
            return Some(0);
        }
        if bits > 15 {
            return None;
        }
        let value = self.bits(u32::from(bits))?;
        Some(if value < 1 << (bits - 1) { value - (1 << bits) + 1 } else { value })
    }

    /// To behind the restart marker that has to come now.
    fn restart(&mut self, number: u8) -> Option<()> {
        // Whole bytes may be left only when the data is damaged.
        if self.count.saturating_sub(self.missing) >= 8 {
            return None;
        }
        let mut rest = self.rest;
        // Fill bytes.
        while rest.starts_with(&[0xff, 0xff]) {
            rest = &rest[1..];
        }
        *self = Self::new(rest.strip_prefix(&[0xff, 0xd0 | number])?);
        Some(())
    }
}

/// A scan's header.
pub(super) struct Scan {
    /// Channel, DC table and AC table.
    parts: Vec<(usize, usize, usize)>,
    /// The coefficients it holds.
    first: usize,
    last: usize,
    /// The bits of them: the lowest before and now.
    high: u32,
    low: u32,
}

impl Scan {
    /// Reads the header and notes the quantisation of channels that begin.
    pub(super) fn new(body: &[u8], frame: &mut Frame, tables: &[Option<[u16; 64]>; 4]) -> Option<Self> {
        let (&count, body) = body.split_first()?;
        let (channels, tail) = body.split_at_checked(2 * usize::from(count))?;
        let [first, last, bits] = *tail.first_chunk::<3>()?;
        let mut parts: Vec<(usize, usize, usize)> = Vec::new();
        for channel in channels.chunks_exact(2) {
            let index = frame.components.iter().position(|component| component.id == channel[0])?;
            if parts.iter().any(|part| part.0 == index) {
                return None;
            }
            let component = &mut frame.components[index];
            if component.quantisation.is_none() {
                component.quantisation = Some((*tables.get(component.table)?)?);
            }
            parts.push((index, usize::from(channel[1] >> 4), usize::from(channel[1] & 15)));
        }
        let scan = Self {
            parts,
            first: usize::from(first),
            last: usize::from(last),
            high: u32::from(bits >> 4),
            low: u32::from(bits & 15),
        };
        let valid = if frame.progressive {
            let band = if scan.first == 0 { scan.last == 0 } else { scan.parts.len() == 1 };
            band && scan.first <= scan.last && scan.last < 64 && scan.low < 14 && scan.high < 15
        } else {
            (scan.first, scan.last, scan.high, scan.low) == (0, 63, 0, 0)
        };
        (valid && !scan.parts.is_empty()).then_some(scan)
    }

    /// Reads the coded data into the frame's coefficients; what is left starts at a marker.
    pub(super) fn read<'a>(
        &self,
        frame: &mut Frame,
        dc: &[Option<Huffman>; 4],
        ac: &[Option<Huffman>; 4],
        restart: usize,
        bytes: &'a [u8],
    ) -> Option<&'a [u8]> {
        let mut state = State { bits: Bits::new(bytes), last_dc: [0; 3], end_run: 0 };
        // Alone, a channel is coded block by block over the samples that count; with others, in units of blocks of each.
        let alone = self.parts.len() == 1;
        let (columns, rows) = if alone {
            let component = &frame.components[self.parts[0].0];
            (component.width.div_ceil(8), component.height.div_ceil(8))
        } else {
            (frame.columns, frame.rows)
        };
        for unit in 0..columns * rows {
            if restart > 0 && unit > 0 && unit.is_multiple_of(restart) {
                state.bits.restart(((unit / restart - 1) % 8) as u8)?;
                (state.last_dc, state.end_run) = ([0; 3], 0);
            }
            let (column, row) = (unit % columns, unit / columns);
            for &(index, dc_table, ac_table) in &self.parts {
                let component = &mut frame.components[index];
                let (across, down) = if alone { (1, 1) } else { (component.across, component.down) };
                for y in 0..down {
                    for x in 0..across {
                        let block = component.block(column * across + x, row * down + y)?;
                        let tables = (dc.get(dc_table)?.as_ref(), ac.get(ac_table)?.as_ref());
                        self.block(frame.progressive, &mut state, index, tables, block)?;
                    }
                }
            }
        }
        Some(state.bits.rest)
    }

    fn block(
        &self,
        progressive: bool,
        state: &mut State<'_>,
        index: usize,
        (dc, ac): (Option<&Huffman>, Option<&Huffman>),
        block: &mut [i16],
    ) -> Option<()> {
        if !progressive {
            state.dc(dc?, index, 0, block)?;
            return state.ac(ac?, 1, 63, 0, block);
        }
        match (self.first, self.high) {
            (0, 0) => state.dc(dc?, index, self.low, block),
            (0, _) => {
                if state.bits.bits(1)? == 1 {
                    block[0] |= 1 << self.low;
                }
                Some(())
            }
            (_, 0) => state.ac(ac?, self.first, self.last, self.low, block),
            _ => state.refine(ac?, self.first, self.last, self.low, block),
        }
    }
}

impl Component {
    fn block(&mut self, x: usize, y: usize) -> Option<&mut [i16]> {
        let at = 64 * (y * self.columns + x);
        self.coefficients.get_mut(at..at + 64)
    }
}

struct State<'a> {
    bits: Bits<'a>,
    last_dc: [i32; 3],
    /// Blocks still to come that have nothing more in this band.
    end_run: i32,
}

impl State<'_> {
    fn dc(&mut self, table: &Huffman, index: usize, low: u32, block: &mut [i16]) -> Option<()> {
        let size = self.bits.symbol(table)?;
        let difference = self.bits.number(size)?;
        let last = self.last_dc.get_mut(index)?;
        *last = last.wrapping_add(difference);
        block[0] = (*last << low) as i16;
        Some(())
    }

    /// A band's coefficients, first time. Baseline pictures have no runs of ends beyond one block.
    fn ac(&mut self, table: &Huffman, first: usize, last: usize, low: u32, block: &mut [i16]) -> Option<()> {
        if self.end_run > 0 {
            self.end_run -= 1;
            return Some(());
        }
        let mut k = first;
        while k <= last {
            let symbol = self.bits.symbol(table)?;
            let (run, size) = (symbol >> 4, symbol & 15);
            if size == 0 {
                if run < 15 {
                    self.end_run = (1 << run) - 1 + self.bits.bits(u32::from(run))?;
                    return Some(());
                }
                k += 16;
                continue;
            }
            k += usize::from(run);
            if k > last {
                return None;
            }
            block[usize::from(ZIGZAG[k])] = (self.bits.number(size)? << low) as i16;
            k += 1;
        }
        Some(())
    }

    /// One more bit of a band's coefficients.
    fn refine(&mut self, table: &Huffman, first: usize, last: usize, low: u32, block: &mut [i16]) -> Option<()> {
        let bit = 1i16 << low;
        let mut k = first;
        if self.end_run == 0 {
            while k <= last {
                let symbol = self.bits.symbol(table)?;
                let (mut run, size) = (symbol >> 4, symbol & 15);
                let mut new = 0;
                if size != 0 {
                    new = if self.bits.bits(1)? == 1 { bit } else { -bit };
                } else if run < 15 {
                    self.end_run = (1 << run) + self.bits.bits(u32::from(run))?;
                    break;
                }
                while k <= last {
                    let value = &mut block[usize::from(ZIGZAG[k])];
                    if *value != 0 {
                        self.correct(value, bit)?;
                    } else if run == 0 {
                        *value = new;
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                k += 1;
            }
        }
        if self.end_run > 0 {
            for &at in ZIGZAG.get(k..=last).unwrap_or_default() {
                let value = &mut block[usize::from(at)];
                if *value != 0 {
                    self.correct(value, bit)?;
                }
            }
            self.end_run -= 1;
        }
        Some(())
    }

    fn correct(&mut self, value: &mut i16, bit: i16) -> Option<()> {
        if self.bits.bits(1)? == 1 && *value & bit == 0 {
            *value = value.wrapping_add(if *value > 0 { bit } else { -bit });
        }
        Some(())
    }
}
