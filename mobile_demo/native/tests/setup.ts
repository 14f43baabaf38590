import { configure } from "@testing-library/react-native";

import { alive } from "./fakes/executorch";
import { clean, wipe } from "./fakes/files";
import { chosen } from "./fakes/picker";
import { shared } from "./fakes/sharing";

beforeEach(() => {
  wipe();
  alive.clear();
  shared.length = 0;
  chosen.files = null;
});
afterAll(clean);

// The package's own stand-in: no notch and no system bars.
jest.mock(
  "react-native-safe-area-context",
  () => jest.requireActual("react-native-safe-area-context/jest/mock").default,
);
configure({ asyncUtilTimeout: 15_000 }); // a busy machine of two cores is no failure
