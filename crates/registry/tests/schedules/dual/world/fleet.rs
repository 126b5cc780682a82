//! The providers: they start, change, die, leave, move, are cut off, and write late.

use meshwork_core::{InstanceId, Status};
use meshwork_registry::dual::Side;

use super::{Due, Process, World, only};

impl World {
    pub(super) fn provider(&mut self) {
        let alive: Vec<_> =
            self.processes.iter().filter(|(_, p)| p.alive).map(|(id, _)| id.clone()).collect();
        let any = |world: &mut Self| alive[world.clock.draw(alive.len() as u64) as usize].clone();
        match self.clock.draw(16) {
            _ if alive.is_empty() => self.start(None),
            0..=3 => self.start(None),
            4 => {
                // Another registrar writes a record of a process we know, under another id.
                let of = any(self);
                let process = self.processes[&of].clone();
                let side = self.any_side();
                let id = InstanceId::new(format!("alias-{}-{}", process.port, side.as_str())).unwrap();
                if process.native {
                    let alias = Process { native: false, alias: true, sides: only(side), ..process };
                    self.processes.insert(id.clone(), alias);
                    self.write(side, &id, Status::Up);
                }
            }
            5..=7 => {
                let id = any(self);
                self.last += 1;
                let version = self.last;
                self.known(&id).version = version;
                self.write_all(&id, Status::Up);
            }
            8 | 9 => {
                let id = any(self);
                self.leave(&id);
            }
            10 | 11 => {
                // It dies: its records run out, each in its time.
                let id = any(self);
                self.tell(|| format!("{id} dies"));
                self.known(&id).alive = false;
                self.run_out(&id, 15_000);
            }
            12 => {
                // It is cut from one registry for a while.
                let (id, side) = (any(self), self.any_side());
                if self.registries[side as usize].truth.contains_key(&id) {
                    self.tell(|| format!("{id} is cut from the {side} side"));
                    self.remove(side, &id);
                    let back = self.clock.millis(1_000, 60_000);
                    self.clock.after(back, Due::Heal { side, id });
                }
            }
            13 => {
                // It moves: the other side first, then this one is left in silence.
                let (id, side) = (any(self), self.any_side());
                self.tell(|| format!("{id} leaves the {side} side alone"));
                self.known(&id).sides[side.other() as usize] = true;
                self.write(side.other(), &id, Status::Up);
                self.known(&id).sides[side as usize] = false;
                self.remove(side, &id);
            }
            14 => {
                // A late write brings back one who left.
                let left: Vec<_> =
                    self.processes.iter().filter(|(_, p)| p.left).map(|(id, _)| id.clone()).collect();
                if !left.is_empty() {
                    let id = left[self.clock.draw(left.len() as u64) as usize].clone();
                    let side = self.any_side();
                    self.write(side, &id, Status::Up);
                }
            }
            _ => {
                let id = any(self);
                self.write_all(&id, if self.last.is_multiple_of(2) { Status::Unready } else { Status::Up });
            }
        }
    }

    pub(super) fn start(&mut self, only_on: Option<Side>) {
        self.last += 1;
        let number = self.last;
        // An address is used again, by a process that has taken the place of a dead one.
        let dead: Vec<_> = self.processes.values().filter(|p| !p.alive).map(|p| p.port).collect();
        let taken = |port: u16| self.processes.values().any(|p| p.alive && p.port == port);
        let free: Vec<_> = dead.into_iter().filter(|port| !taken(*port)).collect();
        let reuses = !free.is_empty() && self.clock.chance(50);
        let port = if reuses { free[self.clock.draw(free.len() as u64) as usize] } else { 1_000 + number };
        let native = self.clock.chance(85);
        let id = if native { format!("users-{number}") } else { format!("host-{port}") };
        let id = InstanceId::new(id).unwrap();
        let sides = match (only_on, self.clock.draw(10)) {
            (Some(side), 0..=4) => only(side),
            (None, 0) => only(Side::Primary),
            (None, 1) => only(Side::Secondary),
            _ => [true; 2],
        };
        let start = u64::from(number);
        let (version, alive, left, alias) = (number, true, false, false);
        let process = Process { port, start, version, native, alias, alive, left, sides };
        self.processes.insert(id.clone(), process);
        self.write_all(&id, Status::Up);
    }

    pub(super) fn leave(&mut self, id: &InstanceId) {
        let process = self.known(id);
        (process.alive, process.left) = (false, process.native);
        if process.native {
            self.tell(|| format!("{id} leaves"));
            self.last += 1;
            self.known(id).version = self.last;
            for side in Side::BOTH {
                // The mark reaches whichever registry can be reached.
                if self.processes[id].sides[side as usize] && self.clock.chance(80) {
                    self.write(side, id, Status::Leaving);
                }
            }
        }
        self.run_out(id, 2_000);
    }

    pub(super) fn run_out(&mut self, id: &InstanceId, within: u64) {
        let port = self.processes[id].port;
        let aliases = self.processes.iter().filter(|(_, p)| p.alias && p.alive && p.port == port);
        let ids: Vec<_> = aliases.map(|(id, _)| id.clone()).chain([id.clone()]).collect();
        for id in ids {
            self.known(&id).alive = false;
            for side in Side::BOTH {
                let Some(record) = self.registries[side as usize].truth.get(&id) else { continue };
                let version = record.weight;
                let delay = self.clock.millis(0, within);
                self.clock.after(delay, Due::Remove { side, id: id.clone(), version });
            }
        }
    }

    pub(super) fn heal(&mut self, side: Side, id: &InstanceId) {
        let process = &self.processes[id];
        if process.alive && process.sides[side as usize] {
            self.write(side, id, Status::Up);
        }
    }

    pub(super) fn known(&mut self, id: &InstanceId) -> &mut Process {
        self.processes.get_mut(id).expect("invariant: only known ids are asked for")
    }

    pub(super) fn any_side(&mut self) -> Side {
        Side::BOTH[self.clock.draw(2) as usize]
    }
}
