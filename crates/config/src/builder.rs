//! The load itself: which environment, which files, in which order.

use crate::{
    config::{Config, Sources, is_development},
    document,
    env::{self, DIRECTORY, ENVIRONMENT},
    error::{ConfigError, Mistake, Origin},
    excerpt::Excerpt,
    key::KeyPath,
    layers::{Layer, Layers, Mark, Place, Source, merge},
    schema::DrainConfig,
    stamps::Stamps,
};
use figment::value::{Dict, Value};
use std::{
    ffi::{OsStr, OsString},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Chooses the sources of a [`Config`]; what is not chosen is taken from the process and its working directory.
#[derive(Clone, Default)]
#[must_use = "nothing is read before build()"]
pub struct ConfigBuilder {
    environment: Option<String>,
    dir: Option<PathBuf>,
    without_files: bool,
    variables: Option<Vec<(OsString, OsString)>>,
    code: Vec<String>,
}

// === impl Config ===

impl Config {
    /// Reads the files of the environment and the variables of the process. Blocks on the files.
    ///
    /// # Errors
    /// Everything that is wrong in them.
    pub fn load() -> Result<Self, ConfigError> {
        Self::builder().build()
    }

    /// Starts a configuration with other sources than [`load`](Self::load) takes.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }
}

// === impl ConfigBuilder ===

impl ConfigBuilder {
    /// The environment, instead of `MESHWORK_ENV`.
    pub fn environment(mut self, name: impl Into<String>) -> Self {
        self.environment = Some(name.into());
        self
    }

    /// The directory of the files, instead of `MESHWORK_CONFIG_DIR` or `config`. It need not exist.
    pub fn dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.dir = Some(path.into());
        self
    }

    /// Reads no file.
    pub fn without_files(mut self) -> Self {
        self.without_files = true;
        self
    }

    /// The environment variables, instead of those of the process.
    pub fn env_vars<K, V>(mut self, variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        self.variables = Some(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect());
        self
    }

    /// A TOML text over everything else; a later call goes over an earlier one.
    pub fn code(mut self, toml: impl Into<String>) -> Self {
        self.code.push(toml.into());
        self
    }

    /// Reads the sources. Blocks on the files.
    ///
    /// # Errors
    /// Everything that is wrong in them: files that cannot be read or parsed first, then keys and values.
    pub fn build(self) -> Result<Config, ConfigError> {
        let again = self.clone();
        let variables = self.variables.unwrap_or_else(|| std::env::vars_os().collect());
        let variable =
            |name: &str| variables.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v);
        let environment = match self.environment {
            Some(name) => checked(&name).map(str::to_owned),
            None => environment_of(variable(ENVIRONMENT).map(OsString::as_os_str)),
        }?;
        let (mut layers, mut mistakes, mut files) = (vec![defaults(&environment)], Vec::new(), Vec::new());
        let mut stamps = Stamps::default();
        if !self.without_files {
            let dir = match self.dir {
                Some(dir) => dir,
                None => directory(variable(DIRECTORY).map(OsString::as_os_str))?,
            };
            let mut names = vec!["default", &environment];
            names.dedup();
            let paths: Vec<_> = names.iter().map(|name| dir.join(format!("{name}.toml"))).collect();
            // Before they are read: what changes meanwhile must show as a change.
            stamps = Stamps::of(paths.clone());
            for path in paths {
                match read(path) {
                    Ok(Some((path, layer))) => {
                        files.push(path);
                        layers.push(layer);
                    }
                    Ok(None) => {}
                    Err(mistake) => mistakes.push(mistake),
                }
            }
        }
        let lower = merge(layers.iter().map(|layer| &layer.values));
        let variables = env::read(&variables, &lower);
        mistakes.extend(variables.mistakes);
        layers.push(variables.layer);
        for text in self.code {
            match document::code(text) {
                Ok(layer) => layers.push(layer),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        ConfigError::check(mistakes)?;
        let layers = Arc::new(Layers::new(layers));
        let again = Arc::new(move || again.clone().build());
        Config::assemble(Sources { environment, files, stamps, ignored: variables.ignored, layers, again })
    }
}

impl fmt::Debug for ConfigBuilder {
    /// Without the variables and the text, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigBuilder")
            .field("environment", &self.environment)
            .field("dir", &self.dir)
            .field("without_files", &self.without_files)
            .finish_non_exhaustive()
    }
}

/// A name that can be part of a file's name.
fn checked(name: &str) -> Result<&str, Mistake> {
    let right = name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let message = || {
        format!(
            "`{}` is no name of an environment\nwrite up to 128 letters, digits, `.`, `_` and `-`, the first a letter or a digit",
            name.escape_debug()
        )
    };
    if right { Ok(name) } else { Err(Mistake::new("", message())) }
}

fn environment_of(value: Option<&OsStr>) -> Result<String, Mistake> {
    let Some(value) = value else { return Ok("dev".to_owned()) };
    let name = value.to_str().ok_or_else(|| Mistake::new("", "the value is not UTF-8"));
    name.and_then(checked)
        .map(str::to_owned)
        .map_err(|mistake| mistake.with_origin(Origin::Env { variable: ENVIRONMENT.to_owned() }))
}

/// The directory that the variable names; unlike the default one it must exist.
fn directory(value: Option<&OsStr>) -> Result<PathBuf, Mistake> {
    let Some(value) = value else { return Ok(PathBuf::from("config")) };
    let dir = PathBuf::from(value);
    if dir.is_dir() {
        return Ok(dir);
    }
    let mistake = Mistake::new("", format!("`{}` is no directory", dir.display()));
    Err(mistake.with_origin(Origin::Env { variable: DIRECTORY.to_owned() }))
}

/// Reads a file; `None` if there is none.
fn read(path: PathBuf) -> Result<Option<(PathBuf, Layer)>, Mistake> {
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let mut mistake = Mistake::new("", format!("reading `{}`", path.display()));
            mistake.0.source = Some(Arc::new(error));
            return Err(mistake);
        }
    };
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(&path, &error))?;
    Ok(Some((path.clone(), document::file(path, text)?)))
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Mistake {
    let valid = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(&error.as_bytes()[..valid]);
    let excerpt = Excerpt::new(&text, &(valid..valid), true);
    let origin = Origin::File { path: path.to_owned(), line: excerpt.line, column: excerpt.column };
    Mistake::new("", "the file is not UTF-8 from here on").with_origin(origin)
}

/// The lowest layer: defaults that depend on the environment.
fn defaults(environment: &str) -> Layer {
    let mut layer = Layer { source: Source::Defaults, values: Dict::new(), marks: Default::default() };
    if is_development(environment) {
        for (section, key, value) in
            [("drain", "settle", DrainConfig::SETTLE_IN_DEVELOPMENT), ("registry", "use", "local")]
        {
            let path = KeyPath::default().join(section);
            let table = Dict::from([(key.to_owned(), Value::from(value))]);
            layer.values.insert(section.to_owned(), Value::from(table));
            let mark = |is_table| Mark { place: Place::Nowhere, is_table };
            layer.marks.insert(path.join(key), mark(false));
            layer.marks.insert(path, mark(true));
        }
    }
    layer
}
