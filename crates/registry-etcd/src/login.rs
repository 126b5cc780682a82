//! Who we are to etcd: a user, a password, and the token of the moment, which all links share.
//!
//! A token ends without notice: a simple one when it is idle or its user changes, a JWT with its time or
//! with any change of users. So a request that was refused for its token asks for another one, once; all
//! that were refused for the same token share the login. A refused password is not tried again for
//! `denied_retry`, unless it has changed, and tokens that are refused as soon as they are given are asked
//! for at growing distances.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use etcd_client::Client;
use meshwork_core::{Error, ErrorChain, ErrorKind};
use meshwork_registry::Secret;
use tokio::{sync::Mutex, time, time::Instant};
use tonic::codegen::http::HeaderValue;

use crate::{config::EtcdConfig, errors};

/// Between two logins when the first one's token was never taken; doubles.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The user of one backend, and the token of the moment.
pub(crate) struct Login {
    user: Box<str>,
    password: Password,
    denied_retry: Duration,
    patience: Duration,
    now: RwLock<Token>,
    /// Held while a login is under way.
    turn: Mutex<Turn>,
}

/// The token that a login gives.
type Answer = Result<String, etcd_client::Error>;

enum Password {
    Fixed(Secret),
    File(PathBuf),
}

/// A token, and which one it is; 0 = there was none yet.
#[derive(Clone, Default)]
struct Token {
    number: u64,
    /// None also where etcd says that it asks for none.
    header: Option<HeaderValue>,
    is_proven: bool,
}

#[derive(Default)]
struct Turn {
    /// When the last login failed, and why: whoever waited for it shares the answer.
    failed: Option<(Instant, Arc<Error>)>,
    /// The password that was read last.
    read: Option<Secret>,
    /// The password that etcd refused last, and when.
    refused: Option<(Secret, Instant, Arc<Error>)>,
    last: Option<Instant>,
    /// How many tokens in a row were never taken.
    useless: u32,
}

impl Login {
    /// The user of a configuration, if it names one.
    pub(crate) fn of(config: &EtcdConfig) -> Option<Self> {
        let password = match (&config.password, &config.password_file) {
            (Some(password), _) => Password::Fixed(password.clone()),
            (None, Some(file)) => Password::File(file.clone()),
            (None, None) => return None,
        };
        Some(Self {
            user: config.user.as_deref()?.into(),
            password,
            denied_retry: config.denied_retry,
            patience: config.attempt_timeout,
            now: RwLock::default(),
            turn: Mutex::default(),
        })
    }

    /// Which token is sent now; 0 = none was asked for yet.
    pub(crate) fn number(&self) -> u64 {
        self.now.read().unwrap_or_else(PoisonError::into_inner).number
    }

    /// The header of the token of the moment.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).header.clone()
    }

    /// A request that was sent with this token, or a later one, was not refused for it.
    pub(crate) fn proved(&self, number: u64) {
        let is_news = {
            let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
            now.number == number && !now.is_proven
        };
        if is_news {
            let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
            now.is_proven |= now.number == number;
        }
    }

    /// Sees to another token than `stale`: logs in over `client`, unless somebody else has.
    ///
    /// # Errors
    /// `Denied` naming the key to edit when etcd refuses the password, without asking again within
    /// `denied_retry`; `Invalid` when there is no password to read; else that etcd cannot be asked now.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the token as it was.
    pub(crate) async fn renew(&self, client: &Client, stale: u64) -> Result<(), Error> {
        let ask = |user, password| async {
            let answer = client.auth_client().authenticate(user, password).await?;
            Ok(answer.token().to_owned())
        };
        self.renew_by(ask, stale).await
    }

    async fn renew_by<F: Future<Output = Answer>>(
        &self,
        ask: impl FnOnce(String, String) -> F,
        stale: u64,
    ) -> Result<(), Error> {
        let asked = Instant::now();
        let mut turn = self.turn.lock().await;
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner).clone();
        if now.number != stale {
            return Ok(());
        }
        if let Some((at, error)) = &turn.failed
            && *at > asked
        {
            return Err(errors::echo(error));
        }
        let outcome = self.log_in(ask, &now, &mut turn).await;
        match outcome {
            Ok(header) => {
                turn.failed = None;
                let token = Token { number: stale + 1, header, is_proven: false };
                *self.now.write().unwrap_or_else(PoisonError::into_inner) = token;
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                turn.failed = Some((Instant::now(), Arc::clone(&error)));
                Err(errors::echo(&error))
            }
        }
    }

    async fn log_in<F: Future<Output = Answer>>(
        &self,
        ask: impl FnOnce(String, String) -> F,
        before: &Token,
        turn: &mut Turn,
    ) -> Result<Option<HeaderValue>, Error> {
        let password = self.read(turn).await?;
        if let Some((refused, at, error)) = &turn.refused
            && *refused == password
            && at.elapsed() < self.denied_retry
        {
            return Err(errors::echo(error));
        }
        let useless = if before.number == 0 || before.is_proven { 0 } else { turn.useless + 1 };
        if useless > 0 && turn.last.is_some_and(|last| last.elapsed() < pause(useless)) {
            let text = format!("etcd refuses the token that it gave to user `{}`", self.user);
            return Err(Error::unavailable(text));
        }
        (turn.last, turn.useless) = (Some(Instant::now()), useless);
        let asking = || format!("logging in to etcd as user `{}`", self.user);
        let answer = ask(self.user.to_string(), password.reveal().to_owned());
        let answer = time::timeout(self.patience, answer).await;
        let answer = answer.map_err(|_elapsed| {
            Error::unavailable(format!("{}: no answer within {:?}", asking(), self.patience))
        })?;
        match answer {
            Ok(token) => {
                turn.refused = None;
                let mut header = HeaderValue::try_from(token).map_err(|e| {
                    Error::new(ErrorKind::Protocol, format!("{}: its token", asking())).with_source(e)
                })?;
                header.set_sensitive(true);
                tracing::debug!(user = %self.user, "logged in to etcd");
                Ok(Some(header))
            }
            Err(cause) if errors::is_without_users(&cause) => {
                if before.number == 0 {
                    tracing::warn!(user = %self.user, "etcd asks nobody who he is: authentication is not enabled");
                }
                Ok(None)
            }
            Err(cause) if errors::is_login_refused(&cause) => {
                let text = format!("{}: edit {}", asking(), self.keys());
                let error = Arc::new(errors::of(text, cause));
                turn.refused = Some((password, Instant::now(), Arc::clone(&error)));
                Err(errors::echo(&error))
            }
            Err(cause) => Err(errors::of(asking(), cause)),
        }
    }

    /// The password of the moment. A file that cannot be read, as in the middle of a rotation, leaves the
    /// one that was read before.
    async fn read(&self, turn: &mut Turn) -> Result<Secret, Error> {
        let file = match &self.password {
            Password::Fixed(password) => return Ok(password.clone()),
            Password::File(file) => file,
        };
        let said = || Error::invalid(format!("reading etcd `password_file` {}", file.display()));
        let read = match tokio::fs::read_to_string(file).await {
            Err(e) => Err(said().with_source(e)),
            Ok(text) => match text.trim_end_matches(['\r', '\n']) {
                "" => Err(said().with_source("it is empty")),
                password => Ok(Secret::from(password)),
            },
        };
        match (read, &turn.read) {
            (Ok(password), _) => {
                turn.read = Some(password.clone());
                Ok(password)
            }
            (Err(error), Some(before)) => {
                tracing::warn!(error = %ErrorChain(&error), "the password that was read before is used");
                Ok(before.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Where the user and the password are written.
    fn keys(&self) -> String {
        match &self.password {
            Password::Fixed(_) => "`user` and `password`".to_owned(),
            Password::File(file) => format!("`user` and `password_file` {}", file.display()),
        }
    }
}

fn pause(useless: u32) -> Duration {
    PAUSE.saturating_mul(1 << useless.min(10)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tonic::{Code, Status};

    use super::*;

    /// An etcd that counts logins and knows one password.
    #[derive(Default)]
    struct Users {
        asked: AtomicU32,
    }

    impl Users {
        async fn answer(&self, password: String) -> Answer {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            time::sleep(Duration::from_millis(80)).await;
            if password == "right" {
                return Ok(format!("token-{number}"));
            }
            let text = "etcdserver: authentication failed, invalid user ID or password";
            Err(etcd_client::Error::GRpcStatus(Status::new(Code::InvalidArgument, text)))
        }

        async fn renew(&self, login: &Login, stale: u64) -> Result<(), Error> {
            login.renew_by(|_user, password| self.answer(password), stale).await
        }

        fn asked(&self) -> u32 {
            self.asked.load(Ordering::Relaxed)
        }
    }

    fn login(password: &str) -> Login {
        let (user, password) = (Some("u".to_owned()), Some(Secret::from(password)));
        Login::of(&EtcdConfig { user, password, ..EtcdConfig::default() }).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_were_refused_for_one_token_share_one_login() {
        let (users, login) = (Users::default(), login("right"));
        let renewed = futures_util::future::join_all((0..50).map(|_| users.renew(&login, 0))).await;
        assert!(renewed.iter().all(Result::is_ok));
        assert_eq!((users.asked(), login.number()), (1, 1));
        assert_eq!(login.header().unwrap(), "token-0");
        // Late news of the token before.
        users.renew(&login, 0).await.unwrap();
        assert_eq!(users.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_is_tried_once_a_minute_by_all_together() {
        let (users, login) = (Users::default(), login("wrong"));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(179) {
            let refused = futures_util::future::join_all((0..5).map(|_| users.renew(&login, 0))).await;
            assert!(refused.iter().all(|r| r.as_ref().is_err_and(|e| e.kind() == ErrorKind::Denied)));
            time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!((users.asked(), login.number()), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_are_refused_as_soon_as_given_are_asked_for_ever_more_rarely() {
        let (users, login) = (Users::default(), login("right"));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            // The outcome is the same to whoever asks: his request is refused again.
            let _ = users.renew(&login, login.number()).await;
            time::sleep(Duration::from_millis(50)).await;
        }
        assert!((8..=11).contains(&users.asked()), "{} logins", users.asked());
        // One that is taken ends it.
        login.proved(login.number());
        let before = users.asked();
        users.renew(&login, login.number()).await.unwrap();
        assert_eq!(users.asked(), before + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn another_password_in_the_file_is_tried_at_once_and_none_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let (user, password_file) = (Some("u".to_owned()), Some(file.clone()));
        let config = EtcdConfig { user, password_file, ..EtcdConfig::default() };
        let (users, login) = (Users::default(), Login::of(&config).unwrap());
        assert_eq!(users.renew(&login, 0).await.unwrap_err().kind(), ErrorKind::Invalid);
        std::fs::write(&file, "wrong\n").unwrap();
        assert_eq!(users.renew(&login, 0).await.unwrap_err().kind(), ErrorKind::Denied);
        std::fs::write(&file, "right\n").unwrap();
        users.renew(&login, 0).await.unwrap();
        login.proved(1);
        std::fs::remove_file(&file).unwrap();
        users.renew(&login, 1).await.unwrap();
        assert_eq!((users.asked(), login.number()), (3, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_without_answer_ends_for_all_who_wait_for_it() {
        let login = login("right");
        let silent = || login.renew_by(|_, _| std::future::pending::<Answer>(), 0);
        let begun = Instant::now();
        let outcomes = futures_util::future::join_all((0..5).map(|_| silent())).await;
        assert!(outcomes.iter().all(|r| r.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable)));
        assert!(begun.elapsed() < 2 * EtcdConfig::default().attempt_timeout, "{:?}", begun.elapsed());
    }
}
