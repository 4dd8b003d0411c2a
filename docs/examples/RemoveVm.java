import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.UUID;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.postgresql.PGConnection;

/**
 * Removes a VM with its disks: an engine in Java. See docs/engine-guide.md.
 *
 * <pre>java -cp ... RemoveVm JDBC_URL VM_ID VDSM_HOST:PORT</pre>
 */
public final class RemoveVm {
    private static final UUID POOL = UUID.fromString("5849b030-626e-47cb-ad90-3ce782d831b3");
    private static final UUID DOMAIN = UUID.fromString("50000000-626e-47cb-ad90-3ce782d831b3");
    private static final Duration SUBMIT_WINDOW = Duration.ofSeconds(30);
    private static final int RESCAN_MS = 5_000;

    /** Validation has failed; the message names the holder. */
    static final class CannotDo extends RuntimeException {
        private static final long serialVersionUID = 1;

        CannotDo(String message) {
            super(message);
        }
    }

    /** A task of this engine and the image that it deletes. */
    record Task(UUID id, UUID disk) {}

    /** A claimed endAction. */
    record EndAction(UUID command, String outcome, long token, String vm, String tasks) {}

    /**
     * What a committed transaction returned.
     *
     * @param since System.nanoTime() before it began
     * @param doubtful its synchronous standbys have not confirmed it: VDSM must not be called
     */
    record Committed<T>(T value, long since, boolean doubtful) {}

    interface Work<T> {
        T run() throws SQLException;
    }

    private final Connection db;
    private final Vdsm vdsm;
    private final long epoch;

    private RemoveVm(Connection db, Vdsm vdsm) throws SQLException {
        this.db = db;
        this.vdsm = vdsm;
        this.epoch = transaction(() -> {
            try (ResultSet row = query("SELECT atm.start_engine(?)", "engine-in-java")) {
                row.next();
                return row.getLong(1);
            }
        }).value();
    }

    public static void main(String[] arguments) throws Exception {
        String[] address = arguments[2].split(":");
        try (Connection db = DriverManager.getConnection(arguments[0]);
                Connection listener = DriverManager.getConnection(arguments[0]);
                Vdsm vdsm = new Vdsm(address[0], Integer.parseInt(address[1]))) {
            db.setAutoCommit(false);
            RemoveVm engine = new RemoveVm(db, vdsm);
            UUID command = UUID.randomUUID();
            List<Task> tasks = new ArrayList<>();
            Committed<?> planned = engine.plan(command, UUID.fromString(arguments[1]), tasks);
            engine.submit(command, tasks, planned);
            engine.runEndActions(listener, command);
        }
    }

    /** Validates, locks the VM's row and plans, in one transaction. The first task is announced. */
    private Committed<?> plan(UUID command, UUID vm, List<Task> tasks) throws SQLException {
        return transaction(() -> {
            tasks.clear();
            try (ResultSet disk = query(
                    "SELECT disk_id FROM my_engine.disk WHERE vm_id = ? ORDER BY disk_id FOR UPDATE", vm)) {
                while (disk.next()) {
                    tasks.add(new Task(UUID.randomUUID(), disk.getObject(1, UUID.class)));
                }
            }
            String entities = entity("VM", vm) + tasks.stream()
                    .map(task -> ", " + entity("Disk", task.disk())).collect(Collectors.joining());
            try (ResultSet holder = query(
                    "SELECT entity_type, action_type, root_command_id FROM atm.blockers(?::jsonb)",
                    "[" + entities + "]")) {
                if (holder.next()) {
                    throw new CannotDo("%s is held by %s %s".formatted(
                            holder.getString(1), holder.getString(2), holder.getString(3)));
                }
            }
            execute("UPDATE my_engine.vm SET state = 'LOCKED' WHERE vm_id = ?", vm);
            String children = IntStream.range(0, tasks.size()).mapToObj(n -> """
                    {"action_type": "RemoveImage",
                     "entities": [%s, {"type": "Storage", "id": "%s"}],
                     "tasks": [{"task_id": "%s", "task_type": "deleteImage", "storage_pool_id": "%s",
                                "parameters": {"disk_id": "%s"}, "submit": %b}]}""".formatted(
                    entity("Disk", tasks.get(n).disk()), DOMAIN, tasks.get(n).id(), POOL,
                    tasks.get(n).disk(), n == 0)).collect(Collectors.joining(", "));
            execute("SELECT count(*) FROM atm.plan_command(?, ?::jsonb)", epoch, """
                    {"command_id": "%s", "action_type": "RemoveVm", "parameters": {"vm_id": "%s"},
                     "entities": [%s], "children": [%s]}""".formatted(
                    command, vm, entity("VM", vm), children));
            return null;
        });
    }

    /** Sends one task after the other: announced and committed, sent, bound. */
    private void submit(UUID command, List<Task> tasks, Committed<?> planned) throws SQLException {
        Committed<?> announced = planned;
        for (int n = 0; n < tasks.size(); n++) {
            Task task = tasks.get(n);
            UUID vdsmTask;
            try {
                if (announced.doubtful()) {
                    throw new Vdsm.Unknown("not sent: the announcing commit was not confirmed");
                }
                if (System.nanoTime() - announced.since() > SUBMIT_WINDOW.toNanos()) {
                    throw new Vdsm.Unknown("not sent: submit_window has passed");
                }
                vdsmTask = vdsm.deleteImage(task.disk(), POOL, DOMAIN, task.id());
            } catch (Vdsm.Refused refused) {
                giveUp("fail_task", task, command, refused.getMessage());
                return;
            } catch (Vdsm.Unknown unknown) {
                giveUp("doubt_task", task, command, unknown.getMessage());
                return;
            }
            UUID[] next = n + 1 < tasks.size() ? new UUID[] {tasks.get(n + 1).id()} : new UUID[0];
            Committed<Boolean> bound = transaction(() -> {
                boolean more = false;
                try (ResultSet row = query("SELECT task_id, state FROM atm.bind_task(?, ?, ?, ?)",
                        epoch, task.id(), vdsmTask, db.createArrayOf("uuid", next))) {
                    while (row.next()) {
                        more |= row.getString(2).equals("submitting");
                    }
                }
                return more;
            });
            System.out.println("bound: task " + (n + 1) + " of " + tasks.size());
            if (!bound.value()) {
                return; // the last one, or somebody has aborted the command
            }
            announced = bound;
        }
    }

    private void giveUp(String function, Task task, UUID command, String reason) throws SQLException {
        System.out.println(function + ": " + reason);
        transaction(() -> execute("SELECT atm." + function + "(?, ?, ?)", epoch, task.id(), reason));
        try {
            transaction(() -> execute("SELECT atm.abort_command(?, ?, ?)", epoch, command, reason));
        } catch (SQLException error) {
            if (!"AT107".equals(error.getSQLState())) {
                throw error;
            }
            // It was the last task: the command is ready already.
        }
    }

    /** Ends commands of this engine, also those of earlier runs, until the given one has ended. */
    private void runEndActions(Connection listener, UUID command) throws SQLException {
        try (PreparedStatement listen = listener.prepareStatement("LISTEN atm_ready")) {
            listen.execute();
        }
        PGConnection notifications = listener.unwrap(PGConnection.class);
        boolean ended = false;
        while (!ended) {
            // What came before LISTEN, or while we were busy, is found by looking.
            List<EndAction> claimed = transaction(this::claim).value();
            for (EndAction endAction : claimed) {
                ended |= end(endAction) && endAction.command().equals(command);
            }
            if (claimed.isEmpty()) {
                notifications.getNotifications(RESCAN_MS);
            }
        }
    }

    private List<EndAction> claim() throws SQLException {
        List<EndAction> claimed = new ArrayList<>();
        try (ResultSet row = query("""
                SELECT root_command_id, outcome, token, parameters ->> 'vm_id',
                       (SELECT jsonb_agg(jsonb_build_array(t -> 'parameters' ->> 'disk_id', t ->> 'outcome'))
                          FROM jsonb_array_elements(tasks) t)
                  FROM atm.claim_end_actions(?, 10, '1 minute')""", epoch)) {
            while (row.next()) {
                claimed.add(new EndAction(row.getObject(1, UUID.class), row.getString(2),
                        row.getLong(3), row.getString(4), row.getString(5)));
            }
        }
        return claimed;
    }

    /** The effect and the end of the command in one transaction; true when the command has ended. */
    private boolean end(EndAction endAction) throws SQLException {
        try {
            boolean done = transaction(() -> {
                if (!canCompensate(endAction)) {
                    execute("SELECT atm.finish_end_action(?, 'retry', message => ?)",
                            endAction.token(), "VDSM may still work on a disk");
                    return false;
                }
                execute("SELECT my_engine.after_removal(?::uuid, ?, ?::jsonb)",
                        endAction.vm(), endAction.outcome(), endAction.tasks());
                execute("SELECT atm.finish_end_action(?)", endAction.token());
                return true;
            }).value();
            System.out.println("RemoveVm " + (done ? endAction.outcome() : "is tried again later"));
            return done;
        } catch (SQLException error) {
            if ("AT203".equals(error.getSQLState())) {
                return false; // somebody else has it; nothing of ours was committed
            }
            transaction(() -> execute("SELECT atm.finish_end_action(?, 'retry', message => ?)",
                    endAction.token(), error.getMessage()));
            return false;
        }
    }

    private boolean canCompensate(EndAction endAction) throws SQLException {
        try (ResultSet row = query("""
                SELECT bool_and(atm.can_compensate('Disk', (t ->> 0)::uuid))
                  FROM jsonb_array_elements(?::jsonb) t""", endAction.tasks())) {
            row.next();
            return row.getBoolean(1);
        }
    }

    /** Runs work in a transaction, again after a serialization failure or a deadlock. */
    private <T> Committed<T> transaction(Work<T> work) throws SQLException {
        long since = System.nanoTime();
        for (int attempt = 1; ; attempt++) {
            try {
                T value = work.run();
                db.clearWarnings();
                db.commit();
                // The only warning of a COMMIT is that it did not wait for its standbys.
                return new Committed<>(value, since, db.getWarnings() != null);
            } catch (SQLException | RuntimeException error) {
                db.rollback();
                String state = error instanceof SQLException failed ? failed.getSQLState() : "";
                if (attempt == 20 || !Set.of("40001", "40P01").contains(String.valueOf(state))) {
                    throw error;
                }
            }
        }
    }

    private ResultSet query(String sql, Object... arguments) throws SQLException {
        PreparedStatement statement = db.prepareStatement(sql);
        statement.closeOnCompletion();
        for (int n = 0; n < arguments.length; n++) {
            statement.setObject(n + 1, arguments[n]);
        }
        statement.execute();
        return statement.getResultSet();
    }

    private Void execute(String sql, Object... arguments) throws SQLException {
        try (PreparedStatement statement = db.prepareStatement(sql)) {
            for (int n = 0; n < arguments.length; n++) {
                statement.setObject(n + 1, arguments[n]);
            }
            statement.execute();
        }
        return null;
    }

    private static String entity(String type, UUID id) {
        return "{\"type\": \"%s\", \"id\": \"%s\", \"access\": \"exclusive\"}".formatted(type, id);
    }
}
